package libvirttest

import "ringfence/internal/libvirt"

// The steps of a migration as each end tells them, in the order in which they
// come: LeaveBegins, ArriveBegins, LeaveSwitches, ArriveEnds, LeaveEnds. One that
// fails before the switch: LeaveFails and ArriveFails. Between the steps a test
// may do what it likes.

// LeaveBegins begins a migration of a running guest out of here. It tells nothing
// but its first iteration.
func (s *Server) LeaveBegins(name string) {
	s.Change(name, func(g *Guest) {
		g.Job = libvirt.Job{Kind: libvirt.JobUnbounded, Operation: libvirt.OperationMigrationOut}
	}, Iteration(1))
}

// LeaveSwitches stops the guest here; the target may go on with it from now on.
func (s *Server) LeaveSwitches(name string) {
	s.Change(name, func(g *Guest) { s.set(g, libvirt.StatePaused, libvirt.PausedMigration) },
		Lifecycle(libvirt.Suspended, libvirt.SuspendedMigrated), Iteration(2))
}

// LeaveEnds ends the process here, after the guest went on at its target.
func (s *Server) LeaveEnds(name string) {
	s.Change(name, func(g *Guest) {
		s.set(g, libvirt.StateShutoff, libvirt.ShutoffMigrated)
		g.Job = libvirt.Job{}
	}, Lifecycle(libvirt.Stopped, libvirt.StoppedMigrated), JobCompleted(libvirt.OperationMigrationOut))
}

// LeaveFails ends a migration that failed or was cancelled; the guest goes on here.
// Before the switch nothing is told.
func (s *Server) LeaveFails(name string) {
	g, _ := s.Get(name)
	if g.State != libvirt.StatePaused {
		s.Change(name, func(g *Guest) { g.Job = libvirt.Job{} })
		return
	}
	s.Change(name, func(g *Guest) {
		g.Job = libvirt.Job{}
		s.set(g, libvirt.StateRunning, libvirt.RunningMigrationCanceled)
	}, Lifecycle(libvirt.Resumed, libvirt.ResumedMigrated))
}

// ArriveBegins makes the target of a migration: a guest that waits, paused. A
// guest of that name that is off here takes the part.
func (s *Server) ArriveBegins(g Guest) {
	if _, ok := s.Get(g.Name); !ok {
		g.Transient, g.State = true, libvirt.StateShutoff
		s.Add(g)
	}
	s.Change(g.Name, func(g *Guest) {
		s.lastID++
		g.ID = s.lastID
		s.set(g, libvirt.StatePaused, libvirt.PausedMigration)
		g.Job = libvirt.Job{Kind: libvirt.JobUnbounded, Operation: libvirt.OperationMigrationIn}
	}, Lifecycle(libvirt.Started, libvirt.StartedMigrated))
}

// ArriveEnds lets the guest run here.
func (s *Server) ArriveEnds(name string) {
	s.Change(name, func(g *Guest) {
		s.set(g, libvirt.StateRunning, libvirt.RunningMigrated)
		g.Job = libvirt.Job{}
	}, Lifecycle(libvirt.Resumed, libvirt.ResumedMigrated))
}

// ArriveFails ends the target's process without that the guest ever ran here.
func (s *Server) ArriveFails(name string) {
	s.Change(name, func(g *Guest) {
		s.set(g, libvirt.StateShutoff, libvirt.ShutoffFailed)
		g.Job = libvirt.Job{}
	}, Lifecycle(libvirt.Stopped, libvirt.StoppedFailed))
}
