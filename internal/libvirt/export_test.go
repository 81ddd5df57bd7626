package libvirt

// For tests outside of the package.
var (
	ReadMessage = readMessage
	SSHArgs     = URI.sshArgs
	Sockets     = URI.sockets
)
