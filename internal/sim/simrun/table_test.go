package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestMutantsFit: a mutant whose text is gone would be hunted in vain, or in the
// wrong place. Every promise and backbone rule has one, but P9: a certificate that
// is lost is had again by the next off.
func TestMutantsFit(t *testing.T) {
	rules := map[string]bool{}
	for _, m := range mutants {
		rules[m.rule] = true
		for _, e := range m.edits {
			text, err := os.ReadFile(filepath.Join("../../..", e.file))
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(string(text), e.old); n != 1 {
				t.Errorf("mutant %q: its text stands %d times in %s, want once", m.name, n, e.file)
			}
		}
	}
	for _, rule := range strings.Fields("I1 I2 I3 I4 I5 I6 P4 P5 P7 P8 P11 P15 P16 P17 P18 P19 P20 P22 P24") {
		if !rules[rule] {
			t.Errorf("no mutant breaks %s", rule)
		}
	}
}
