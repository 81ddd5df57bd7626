package fencevirt

import (
	"container/list"
	"sync"
)

// The limits of one listener; see the package comment.
const (
	connectionLimit = 512
	sourceLimit     = 128
)

// limits bounds the connections of one listener, in total and for each source. It
// is safe for concurrent use.
type limits struct {
	mu      sync.Mutex // guards what follows
	idle    *list.List // of *place: those that may be evicted, oldest first
	total   int
	sources map[string]int
	closed  bool
}

// place is the room that one connection takes.
type place struct {
	limits *limits
	source string
	evict  func()        // ends the connection; does not block
	idle   *list.Element // nil while the request is carried out
	gone   bool
	pushed bool // out, by a newer connection
}

func newLimits() *limits {
	return &limits{idle: list.New(), sources: map[string]int{}}
}

// enter takes a place for a connection with source, and evicts another one for it if
// it must. It returns nil when there is none to be had. The place may be evicted
// until it is busy; leave must follow.
func (l *limits) enter(source string, evict func()) *place {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sources[source] >= sourceLimit && !l.evictOldest(func(p *place) bool { return p.source == source }) {
		return nil
	}
	if l.total >= connectionLimit && !l.evictOldest(func(*place) bool { return true }) {
		return nil
	}
	p := &place{limits: l, source: source, evict: evict}
	p.idle = l.idle.PushBack(p)
	l.total++
	l.sources[source]++
	return p
}

// busy protects the connection from being evicted: its request is being carried
// out. It reports false when it has been evicted already.
func (p *place) busy() bool {
	p.limits.mu.Lock()
	defer p.limits.mu.Unlock()
	if p.gone {
		return false
	}
	p.limits.idle.Remove(p.idle)
	p.idle = nil
	return true
}

// waiting ends the protection: only the client is waited for from here on.
func (p *place) waiting() {
	p.limits.mu.Lock()
	defer p.limits.mu.Unlock()
	p.idle = p.limits.idle.PushBack(p)
}

// evicted reports whether the connection had to make room, and whether that was for
// the end of the listener.
func (p *place) evicted() (evicted, closed bool) {
	p.limits.mu.Lock()
	defer p.limits.mu.Unlock()
	return p.pushed, p.pushed && p.limits.closed
}

// leave gives the place back.
func (p *place) leave() {
	p.limits.mu.Lock()
	defer p.limits.mu.Unlock()
	p.limits.remove(p)
}

// evictAll ends every connection that may be evicted.
func (l *limits) evictAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for l.evictOldest(func(*place) bool { return true }) {
	}
}

// The functions below are called with mu held.

func (l *limits) evictOldest(fits func(*place) bool) bool {
	for e := l.idle.Front(); e != nil; e = e.Next() {
		if p := e.Value.(*place); fits(p) {
			l.remove(p)
			p.pushed = true
			p.evict()
			return true
		}
	}
	return false
}

func (l *limits) remove(p *place) {
	if p.gone {
		return
	}
	p.gone = true
	if p.idle != nil {
		l.idle.Remove(p.idle)
	}
	l.total--
	if l.sources[p.source]--; l.sources[p.source] == 0 {
		delete(l.sources, p.source)
	}
}
