package pki

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

func testToken(t *testing.T) Token {
	t.Helper()
	random := make([]byte, tokenIDBytes+tokenSecretBytes)
	for i := range random {
		random[i] = byte(0xa0 + i)
	}
	return must(NewToken(bytes.NewReader(random), Fingerprint{1, 2, 3}))
}

func TestTokenText(t *testing.T) {
	want := "rf1.a0a1a2a3a4a5.a6a7a8a9aaabacadaeafb0b1b2b3b4b5.010203" + strings.Repeat("0", 58)
	token := testToken(t)
	if diff := cmp.Diff(want, token.Text()); diff != "" {
		t.Error(diff)
	}
	got, err := ParseToken(" " + want + "\n")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(token, got); diff != "" {
		t.Error(diff)
	}
}

func TestTokenSecretIsNotPrintedByAccident(t *testing.T) {
	token := testToken(t)
	var logged bytes.Buffer
	slog.New(slog.NewTextHandler(&logged, nil)).Info("joined", "token", token)
	for _, text := range []string{logged.String(), fmt.Sprint(token), fmt.Sprintf("%v %s", token, &token)} {
		if strings.Contains(text, token.Secret) || !strings.Contains(text, token.ID) {
			t.Errorf("got %q, want the id without the secret", text)
		}
	}
}

func TestTokenHashAdmitsOnlyItsSecret(t *testing.T) {
	token := testToken(t)
	const want = 64
	if got := token.Hash(); len(got) != want || got != HashSecret(token.Secret) {
		t.Errorf("hash is %q, want SHA-256 in hex", got)
	}
	if !SecretMatches(token.Secret, token.Hash()) {
		t.Error("the secret does not match its own hash")
	}
	for _, other := range []string{"", token.Secret + "0", strings.ToUpper(token.Secret), token.Hash()} {
		if SecretMatches(other, token.Hash()) {
			t.Errorf("%q matches", other)
		}
	}
	if SecretMatches("", "") {
		t.Error("an empty record admits an empty secret")
	}
}

func TestDamagedTokensAreRefused(t *testing.T) {
	good := testToken(t).Text()
	for name, c := range map[string]struct{ text, want string }{
		"empty":             {" ", "join token is empty"},
		"other thing":       {"hello", `does not begin with "rf1."`},
		"newer format":      {"rf2" + good[3:], `does not begin with "rf1."`},
		"cut off":           {good[:len(good)-1], "has 113 characters, want 114"},
		"too long":          {good + "0", "has 115 characters, want 114"},
		"huge":              {"rf1." + strings.Repeat("a", 1<<20), "characters, want 114"},
		"missing dot":       {strings.Replace(good, ".a6", "0a6", 1), "characters, want 114"},
		"dot moved":         {"rf1.a0a1a2a3a4a5a.6a7a8a9aaabacadaeafb0b1b2b3b4b5." + good[50:], "the id in the join token is damaged"},
		"upper case":        {strings.Replace(good, "a0a1", "A0A1", 1), "the id in the join token is damaged: want lower-case"},
		"secret not hex":    {strings.Replace(good, "a6a7", "zzzz", 1), "the secret in the join token is damaged: want hex"},
		"fingerprint wrong": {good[:len(good)-1] + "g", "the fingerprint in the join token is damaged"},
	} {
		_, err := ParseToken(c.text)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		} else if strings.Contains(err.Error(), "a8a9aaab") {
			t.Errorf("%s: the error repeats the secret: %v", name, err)
		}
	}
}

func TestNoTokenWithoutRandomness(t *testing.T) {
	broken := errors.New("broken")
	if _, err := NewToken(iotest.ErrReader(broken), Fingerprint{}); !errors.Is(err, broken) {
		t.Errorf("token: got %v", err)
	}
	if _, err := NewBeatKey(iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("beat key: got %v", err)
	}
	if _, err := NewClusterID(iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("cluster id: got %v", err)
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add("rf1.a0a1a2a3a4a5.a6a7a8a9aaabacadaeafb0b1b2b3b4b5.010203" + strings.Repeat("0", 58))
	f.Add("rf1...")
	f.Fuzz(func(t *testing.T, text string) {
		token, err := ParseToken(text)
		if err == nil && token.Text() != strings.TrimSpace(text) {
			t.Fatalf("%q was read as %q", text, token.Text())
		}
	})
}
