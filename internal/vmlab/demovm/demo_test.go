//go:build demovm

package demovm

import "testing"

// TestDemo is `make demo-vm`. It needs the machine for itself, and is no part of
// `make test`, which runs several packages at once.
func TestDemo(t *testing.T) { Demo(t) }
