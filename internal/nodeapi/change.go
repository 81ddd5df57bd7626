package nodeapi

import (
	"context"
	"errors"
	"slices"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/mirror"
	"ringfence/internal/store"
)

const (
	// changeTries is how often a change is derived anew when records moved.
	changeTries = 8
	// changePause is the longest wait for the mirror to show why.
	changePause = 200 * time.Millisecond
	// commitTimeout bounds one try: one that was handed to a store leader that
	// has just died is lost without a word. Guards make trying again safe.
	commitTimeout = 2 * time.Second
	// settleTimeout bounds waiting until the mirror shows the change.
	settleTimeout = 2 * time.Second
)

// builder derives a change from the records; message is for the person. No
// writes: nothing has to be done.
type builder func(s *cluster.State) (tx store.Tx, message string, err error)

// change commits what build derives, deriving it anew when a record that it
// compared has moved or an answer got lost, and waits until the mirror shows it.
// It happens at most once: where an answer got lost, the next try compares the
// same revisions, or the outcome is unknown.
func change(ctx context.Context, m *mirror.Mirror, st store.Store, build builder) (Done, error) {
	var last error
	var lost *store.Tx // the first whose outcome is unknown
	for range changeTries {
		s, moved := m.Snapshot()
		tx, message, err := build(&s)
		if err == nil && len(tx.Writes) == 0 {
			return Done{Revision: s.Rev, Message: message}, nil
		}
		if err == nil && lost != nil && !slices.Equal(tx.Guards, lost.Guards) {
			err = store.ErrUnknown
		}
		if err != nil {
			return Done{}, maybe(lost, err)
		}
		rev, err := commit(ctx, st, tx)
		if err == nil {
			settleCtx, cancel := context.WithTimeout(ctx, settleTimeout)
			_ = m.WaitFor(settleCtx, rev) // committed is committed; the mirror may be slow
			cancel()
			return Done{Revision: rev, Changed: true, Message: message}, nil
		}
		last = err
		if lost == nil && errors.Is(err, store.ErrUnknown) {
			lost = &tx
		}
		if !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrUnknown) && !errors.Is(err, store.ErrUnavailable) {
			break // the others pass, as when the store's leadership moves
		}
		select {
		case <-ctx.Done():
			return Done{}, maybe(lost, last)
		case <-moved:
		case <-time.After(changePause):
		}
	}
	return Done{}, maybe(lost, last)
}

// maybe makes an error say no more than is known: after a lost answer none
// proves that nothing was done.
func maybe(lost *store.Tx, err error) error {
	var refused *Error
	switch {
	case lost == nil:
		return err
	case errors.As(err, &refused):
		return refusal(CodeUnknown, "the store did not answer in time, so it may have been done already; since then: %s", refused.Message)
	}
	return store.ErrUnknown
}

func commit(ctx context.Context, st store.Store, tx store.Tx) (cluster.Revision, error) {
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	return st.Commit(ctx, tx)
}

// put writes one record and compares that it is still at rev.
func put(key string, rev cluster.Revision, record any) store.Tx {
	return store.Tx{
		Guards: []cluster.Guard{{Key: key, Rev: rev}},
		Writes: []cluster.Write{cluster.Put(key, record)},
	}
}

// drop deletes one record and compares that it is still at rev.
func drop(key string, rev cluster.Revision) store.Tx {
	return store.Tx{
		Guards: []cluster.Guard{{Key: key, Rev: rev}},
		Writes: []cluster.Write{cluster.Remove(key)},
	}
}
