package cluster_test

import (
	"bytes"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"ringfence/internal/cluster"
)

func TestLifeIDNamesTheHostBootThatStartedIt(t *testing.T) {
	if got := cluster.NewLifeID("boot-1", 42, 99).HostBoot(); got != "boot-1" {
		t.Errorf("host boot %q, want boot-1", got)
	}
	for _, bad := range []cluster.LifeID{"", "x", "x:1", "x:a:1", "x:1:a", "x:1:-1", "x:1:2:3"} {
		if got := bad.HostBoot(); got != "" {
			t.Errorf("%q has host boot %q, want none", bad, got)
		}
	}
}

func TestLifeIDsOfDifferentProcessesDiffer(t *testing.T) {
	seen := map[cluster.LifeID]string{}
	for _, hostBoot := range []string{"a", "b"} {
		for _, pid := range []int{1, 11, 111} {
			for _, start := range []uint64{1, 11, 111} {
				id := cluster.NewLifeID(hostBoot, pid, start)
				if seen[id] != "" {
					t.Errorf("life %s stands for two processes", id)
				}
				seen[id] = hostBoot
			}
		}
	}
}

func TestCheckName(t *testing.T) {
	good := []string{"a", "9", "db1", "my-db_1.example", strings.Repeat("x", 63)}
	bad := []string{"", "-a", "a-", ".a", "a.", "_a", "a/b", "a b", "ä", "a\n", "\na", "a\x00", strings.Repeat("x", 64)}
	for _, name := range good {
		if err := cluster.CheckName(name); err != nil {
			t.Errorf("%q refused: %v", name, err)
		}
	}
	for _, name := range bad {
		if cluster.CheckName(name) == nil {
			t.Errorf("%q accepted", name)
		}
	}
}

func TestCheckGuestID(t *testing.T) {
	if err := cluster.CheckGuestID("4f7c0c1e-9d2b-4a57-8f0e-3b1f2a6c7d10"); err != nil {
		t.Error(err)
	}
	for _, bad := range []cluster.GuestID{
		"", "4F7C0C1E-9D2B-4A57-8F0E-3B1F2A6C7D10", "4f7c0c1e9d2b4a578f0e3b1f2a6c7d10",
		"4f7c0c1e-9d2b-4a57-8f0e-3b1f2a6c7d1", "4f7c0c1e-9d2b-4a57-8f0e-3b1f2a6c7d10\n", "../../etc/passwd",
	} {
		if cluster.CheckGuestID(bad) == nil {
			t.Errorf("%q accepted", bad)
		}
	}
}

// A name that passes is one element of a key, of a path and of a record's name.
func FuzzCheckName(f *testing.F) {
	for _, seed := range []string{"db1", "", "a/b", "..", "a..b", "-", "x\n", strings.Repeat("é", 40)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		err := cluster.CheckName(name)
		if err != nil {
			if message := err.Error(); len(message) > 1000 || strings.ContainsAny(message, "\n\x00\x1b") {
				t.Errorf("message for %q is not fit for a terminal: %q", name, message)
			}
			return
		}
		if len(name) == 0 || len(name) > 63 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != "" {
			t.Errorf("%q accepted", name)
		}
		if !filepath.IsLocal(name) || filepath.Base(name) != name || filepath.Clean(name) != name {
			t.Errorf("%q is not one element of a path", name)
		}
		if strings.Count(cluster.KeyNode(cluster.NodeName(name)), "/") != strings.Count(cluster.KeyNode("n"), "/") {
			t.Errorf("%q is not one element of a key", name)
		}
	})
}

// signed is what the test varies of a signed statement.
type signed interface{ SigningBytes() []byte }

// vary returns statements that differ from base in one field, or in how the
// same letters are spread over two neighbouring fields.
func vary(base reflect.Value, random *rand.Rand) []signed {
	var all []signed
	add := func(change func(v reflect.Value)) {
		v := reflect.New(base.Type()).Elem()
		v.Set(base)
		change(v)
		all = append(all, v.Interface().(signed))
	}
	var texts []int
	for i := range base.NumField() {
		switch base.Field(i).Kind() {
		case reflect.String:
			texts = append(texts, i)
			add(func(v reflect.Value) { v.Field(i).SetString(v.Field(i).String() + "x") })
			add(func(v reflect.Value) { v.Field(i).SetString(v.Field(i).String() + "\x00\x00\x00\x01") })
		case reflect.Uint64:
			add(func(v reflect.Value) { v.Field(i).SetUint(random.Uint64()) })
		}
	}
	for n := 1; n < len(texts); n++ {
		left, right := texts[n-1], texts[n]
		joined := base.Field(left).String() + base.Field(right).String()
		for cut := range len(joined) + 1 {
			if cut != base.Field(left).Len() {
				add(func(v reflect.Value) {
					v.Field(left).SetString(joined[:cut])
					v.Field(right).SetString(joined[cut:])
				})
			}
		}
	}
	return all
}

func randomText(random *rand.Rand) string {
	text := make([]byte, random.IntN(6))
	for i := range text {
		text[i] = "\x00\x01ab:"[random.IntN(5)]
	}
	return string(text)
}

func TestSigningBytesOfDifferentStatementsDiffer(t *testing.T) {
	const seed = 1
	random := rand.New(rand.NewPCG(seed, seed))
	for _, sample := range []signed{cluster.DeathCertificate{}, cluster.Binding{}} {
		for range 300 {
			base := reflect.New(reflect.TypeOf(sample)).Elem()
			for i := range base.NumField() {
				if base.Field(i).Kind() == reflect.String {
					base.Field(i).SetString(randomText(random))
				}
			}
			seen := map[string]signed{string(base.Interface().(signed).SigningBytes()): base.Interface().(signed)}
			for _, other := range vary(base, random) {
				key := string(other.SigningBytes())
				if first, ok := seen[key]; ok && !reflect.DeepEqual(first, other) {
					t.Fatalf("two statements share what is signed (seed %d):\n%+v\n%+v", seed, first, other)
				}
				seen[key] = other
			}
		}
	}
}

func TestTheSignatureItselfIsNotSigned(t *testing.T) {
	c := cluster.DeathCertificate{Cluster: "c", Signature: []byte("one")}
	b := cluster.Binding{Cluster: "c", Signature: []byte("one")}
	if !bytes.Equal(c.SigningBytes(), cluster.DeathCertificate{Cluster: "c"}.SigningBytes()) ||
		!bytes.Equal(b.SigningBytes(), cluster.Binding{Cluster: "c"}.SigningBytes()) {
		t.Error("the signature is part of what is signed")
	}
}

func TestACertificateIsNeverABinding(t *testing.T) {
	if bytes.Equal(cluster.DeathCertificate{}.SigningBytes(), cluster.Binding{}.SigningBytes()) {
		t.Error("one signature would serve for both")
	}
}
