// Package nodeapi is the local API of a node: what `ringfence status`, `service
// move` and the other commands talk to, over a unix socket that only root can
// open; and the join protocol with which a member admits a new node over TLS.
// `ringfence node run` serves both, internal/cli is the client of both.
//
//	GET    /v1/status                     Status
//	GET    /v1/explain/{service}          Explanation
//	GET    /v1/events?follow=1&since=REV  Event, one JSON object a line
//	POST   /v1/services/{name}/{action}   ServiceOrder -> Done  move start stop clear
//	POST   /v1/cluster/{action}           ArmOrder -> Done      disarm arm
//	POST   /v1/nodes/{name}/{action}      NodeOrder -> Done     standby unstandby confirm-dead remove
//	GET    /v1/config                     Configuration
//	PUT    /v1/config                     ConfigOrder -> Done
//	GET    /v1/hosts                      []HostStatus
//	POST   /v1/hosts                      HostOrder -> Done
//	DELETE /v1/hosts/{name}               Done
//	GET    /v1/tokens                     []TokenStatus
//	POST   /v1/tokens                     {} -> NewToken
//	DELETE /v1/tokens/{id}                Done
//	GET    /v1/cluster                    Public
//	POST   /v1/leave                      LeaveOrder -> Done
//
// Every refusal is an Error with a matching HTTP status. The invariant: the API
// decides nothing about ownership or death. It writes wishes, and the one word
// that only a person can give (confirm-dead), each in a transaction that
// compares what it was derived from; the planner does the rest.
package nodeapi
