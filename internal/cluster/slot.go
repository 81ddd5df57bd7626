package cluster

import "time"

// slot is the place of one key in a State.
type slot interface {
	apply(kv KV, deleted bool, now time.Duration) error
	copyTo(other slot) // the same key's place in another State
	detach()
}

// nowhere is the place of keys that a State does not hold.
type nowhere struct{}

func (nowhere) apply(KV, bool, time.Duration) error { return nil }
func (nowhere) copyTo(slot)                         {}
func (nowhere) detach()                             {}

// one is the place of a kind of which there is one record.
type one[T any] struct{ rec *Rec[T] }

func (o one[T]) apply(kv KV, deleted bool, now time.Duration) error {
	if deleted {
		*o.rec = Rec[T]{}
		return nil
	}
	rec, err := decode[T](kv, now)
	if err == nil {
		*o.rec = rec
	}
	return err
}

func (o one[T]) copyTo(other slot) { *other.(one[T]).rec = *o.rec }
func (one[T]) detach()             {}

// table is the place of a kind that has a record a name.
type table[K comparable, T any] struct {
	recs *map[K]Rec[T]
	name K
}

func tableOf[K comparable, T any](recs *map[K]Rec[T], name K) slot { return table[K, T]{recs, name} }

func (t table[K, T]) apply(kv KV, deleted bool, now time.Duration) error {
	if deleted {
		delete(*t.recs, t.name)
		return nil
	}
	rec, err := decode[T](kv, now)
	if err == nil {
		t.set(rec)
	}
	return err
}

func (t table[K, T]) set(rec Rec[T]) {
	if *t.recs == nil {
		*t.recs = map[K]Rec[T]{}
	}
	(*t.recs)[t.name] = rec
}

func (t table[K, T]) copyTo(other slot) {
	if rec, ok := (*t.recs)[t.name]; ok {
		other.(table[K, T]).set(rec)
	}
}

func (t table[K, T]) detach() { *t.recs = cloneMap(*t.recs) }
