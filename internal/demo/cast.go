package demo

import (
	"fmt"
	"slices"

	"ringfence/internal/cluster"
	"ringfence/internal/lab"
)

// cast is who takes part in a cluster of the demo.
type cast struct {
	guests  int
	witness bool // the last host runs one
	movable bool // guests may migrate: every host has a say about all of them
}

// trio is three guests that stay where they are: their hosts may conclude from
// the absence of a guest that it has ended.
var trio = cast{guests: len(lab.Nodes())}

// duo is the smallest cluster that survives the loss of a host: two guests, and a
// witness on a third host. Its guests may migrate.
var duo = cast{guests: 2, witness: true, movable: true}

// roamers is three guests that may migrate between all hosts.
var roamers = cast{guests: len(lab.Nodes()), movable: true}

// String says it for a person.
func (c cast) String() string {
	text := fmt.Sprintf("%d guests", c.guests)
	if c.witness {
		text += " and a witness"
	}
	return fmt.Sprintf("%s, on %d hosts", text, len(lab.Hosts()))
}

func (c cast) nodes() []cluster.NodeName { return lab.Nodes()[:c.guests] }

// voters returns the nodes, and the witness if there is one.
func (c cast) voters() []cluster.NodeName {
	if c.witness {
		return append(slices.Clone(c.nodes()), witnessName)
	}
	return c.nodes()
}

// guestsAt returns the guests about which a host has a say.
func (c cast) guestsAt(host int) []cluster.NodeName {
	switch {
	case c.movable:
		return c.nodes()
	case host < c.guests:
		return c.nodes()[host : host+1]
	}
	return nil
}
