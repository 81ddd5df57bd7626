package store

import (
	"errors"
	"fmt"
)

// ErrRefused: the transaction is malformed or above a limit below. Nothing was
// written, and nothing will be however often it is tried.
var ErrRefused = errors.New("store: transaction refused")

// Limits of one transaction, equal in every implementation. They stay below
// what etcd accepts in one request (1.5 MiB), so that they are hit here first,
// with a message that names the key.
const (
	// MaxKeyBytes is the longest key.
	MaxKeyBytes = 1 << 10
	// MaxValueBytes is the longest value.
	MaxValueBytes = 512 << 10
	// MaxTxBytes bounds the sum of all keys, of guards too, and values.
	MaxTxBytes = 1 << 20
	// MaxTxOps bounds the number of guards, and the number of writes.
	MaxTxOps = 512
)

// CheckTx returns an ErrRefused that says what is wrong with tx, or nil.
// Implementations call it before anything else.
func CheckTx(tx Tx) error {
	if len(tx.Guards) > MaxTxOps || len(tx.Writes) > MaxTxOps {
		return fmt.Errorf("%w: %d guards and %d writes; at most %d each",
			ErrRefused, len(tx.Guards), len(tx.Writes), MaxTxOps)
	}
	total := 0
	for _, g := range tx.Guards {
		if err := checkKey(g.Key); err != nil {
			return err
		}
		total += len(g.Key)
	}
	written := make(map[string]bool, len(tx.Writes))
	for _, w := range tx.Writes {
		if err := checkKey(w.Key); err != nil {
			return err
		}
		if written[w.Key] {
			return fmt.Errorf("%w: key %q is written twice", ErrRefused, w.Key)
		}
		written[w.Key] = true
		if len(w.Value) > MaxValueBytes {
			return fmt.Errorf("%w: value of %q has %d bytes; at most %d",
				ErrRefused, w.Key, len(w.Value), MaxValueBytes)
		}
		if w.Delete && len(w.Value) > 0 {
			return fmt.Errorf("%w: deletion of %q carries a value", ErrRefused, w.Key)
		}
		total += len(w.Key) + len(w.Value)
	}
	if total > MaxTxBytes {
		return fmt.Errorf("%w: %d bytes of keys and values; at most %d", ErrRefused, total, MaxTxBytes)
	}
	return nil
}

func checkKey(key string) error {
	if key == "" {
		return fmt.Errorf("%w: empty key", ErrRefused)
	}
	if len(key) > MaxKeyBytes {
		return fmt.Errorf("%w: key %q... has %d bytes; at most %d", ErrRefused, key[:32], len(key), MaxKeyBytes)
	}
	return nil
}
