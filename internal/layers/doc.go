// Package layers holds the tests that keep the shape of the project as DESIGN
// section 4 draws it: which package may import which, what the pure layers may
// not do, and how large files and functions may grow. It has no code of its own;
// `make check` and `go test` run it.
package layers
