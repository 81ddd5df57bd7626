package pki

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// Sizes of a token's parts, in bytes before they are written in hex.
const (
	tokenPrefix      = "rf1"
	tokenIDBytes     = 6
	tokenSecretBytes = 16
	tokenLimitBytes  = len(tokenPrefix) + 3 + 2*(tokenIDBytes+tokenSecretBytes+sha256.Size)
)

// Token admits one node, once. A person carries it from a member to the new
// node, as one line:
//
//	rf1.<id: 12 hex>.<secret: 32 hex>.<SHA-256 of the authority: 64 hex>
//
// The id finds the record in the store, which holds only the hash of the
// secret; the fingerprint lets the new node know that it talks to the cluster.
type Token struct {
	ID        string
	Secret    string
	Authority Fingerprint
}

// NewToken draws a token from random, which must be a cryptographic source.
func NewToken(random io.Reader, authority Fingerprint) (Token, error) {
	var drawn [tokenIDBytes + tokenSecretBytes]byte
	if _, err := io.ReadFull(random, drawn[:]); err != nil {
		return Token{}, fmt.Errorf("draw a join token: %w", err)
	}
	return Token{
		ID:     hex.EncodeToString(drawn[:tokenIDBytes]),
		Secret: hex.EncodeToString(drawn[tokenIDBytes:]), Authority: authority,
	}, nil
}

// ParseToken reads what Text wrote; white space around it is passed over. Its
// errors do not repeat the token, since they may be logged.
func ParseToken(text string) (Token, error) {
	text = strings.TrimSpace(text)
	parts := strings.Split(text[:min(len(text), tokenLimitBytes)], ".")
	switch {
	case text == "":
		return Token{}, errors.New("join token is empty")
	case parts[0] != tokenPrefix:
		return Token{}, fmt.Errorf("join token does not begin with %q: was all of it copied?", tokenPrefix+".")
	case len(text) != tokenLimitBytes || len(parts) != 4:
		return Token{}, fmt.Errorf("join token has %d characters, want %d: was all of it copied?", len(text), tokenLimitBytes)
	}
	t := Token{ID: parts[1], Secret: parts[2]}
	for _, part := range []struct {
		what, text string
		to         []byte
	}{
		{"id", parts[1], make([]byte, tokenIDBytes)},
		{"secret", parts[2], make([]byte, tokenSecretBytes)},
		{"fingerprint", parts[3], t.Authority[:]},
	} {
		if err := decodeHex(part.to, part.text); err != nil {
			return Token{}, fmt.Errorf("the %s in the join token is damaged: %w", part.what, err)
		}
	}
	return t, nil
}

// decodeHex fills to from exactly as much lower-case hex.
func decodeHex(to []byte, text string) error {
	if len(text) != hex.EncodedLen(len(to)) {
		return fmt.Errorf("want %d hex digits", hex.EncodedLen(len(to)))
	}
	if strings.ToLower(text) != text {
		return errors.New("want lower-case hex digits")
	}
	if _, err := hex.Decode(to, []byte(text)); err != nil {
		return errors.New("want hex digits only")
	}
	return nil
}

// Text returns the token in full, secret included.
func (t Token) Text() string {
	return strings.Join([]string{tokenPrefix, t.ID, t.Secret, t.Authority.String()}, ".")
}

// String returns the token without its secret.
func (t Token) String() string { return tokenPrefix + "." + t.ID + ".(secret)" }

// LogValue keeps the secret out of logs.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.String()) }

// Hash returns what the store keeps of the token: SHA-256 of the secret, in hex.
func (t Token) Hash() string { return HashSecret(t.Secret) }

// HashSecret returns the SHA-256, in hex, of a secret as it stands in a token.
func HashSecret(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// SecretMatches reports, in constant time, whether secret has this hash.
func SecretMatches(secret, hash string) bool {
	return subtle.ConstantTimeCompare([]byte(HashSecret(secret)), []byte(hash)) == 1
}
