package plan

import "time"

// RestartsWithin drops the restarts that are older than window at now. What is
// left counts against cluster.ServiceConfig.Restarts.
func RestartsWithin(restarts []time.Duration, now, window time.Duration) []time.Duration {
	var recent []time.Duration
	for _, at := range restarts {
		if now-at < window {
			recent = append(recent, at)
		}
	}
	return recent
}
