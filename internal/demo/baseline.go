package demo

import "time"

// What Pacemaker took for the same on this kind of machine: Pacemaker 2.1.5 and
// Corosync 3.1.7 of Debian 12 with their defaults, three nodes in namespaces of
// one 2-core machine, medians of six repetitions (eight for the process).
const (
	baselineName = "Pacemaker 2.1.5"
	baselineDate = "2026-11-21"

	baselineGuestEnds   = 8900 * time.Millisecond
	baselineCutOff      = 8660 * time.Millisecond
	baselineProcessEnds = 6870 * time.Millisecond
	baselineColdStart   = 25400 * time.Millisecond
)
