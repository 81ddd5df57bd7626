package libvirt

// For tests outside of the package.
var (
	ReadMessage = readMessage
	SSHArgs     = URI.sshArgs
	Sockets     = URI.sockets
)

// Waiting returns how many calls the session waits for.
func (s *Session) Waiting() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.pending)
}
