package ip

import (
	"testing"

	"ringfence/internal/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m, nil) }
