package journal

// Storage keeps the bytes of a journal. One goroutine uses it. File is the
// real one, on unix; Memory the one of simulator and tests.
type Storage interface {
	// Name says for people where the bytes are.
	Name() string
	// Load returns everything; nothing when there is no journal yet.
	Load() ([]byte, error)
	// Cut removes everything behind size, durably.
	Cut(size int64) error
	// Append adds data durably, or fails and leaves all as it was.
	Append(data []byte) error
	// Replace puts data in place of everything, durably and at once, or fails
	// and leaves all as it was.
	Replace(data []byte) error
	Close() error
}
