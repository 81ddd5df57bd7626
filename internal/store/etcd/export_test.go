package etcd

// HardStop ends the voter as a crash would: no hand-over, nobody is told.
func (s *Server) HardStop() {
	s.cancel()
	s.server.HardStop()
}
