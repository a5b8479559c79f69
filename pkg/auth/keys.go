package auth

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/renameio/v2"
)

// keyAge is how long a key signs. The one before it is kept as long again,
// which is far longer than any token lives.
const keyAge = 30 * 24 * time.Hour

// signingKeys are the Ed25519 keys of the seeder's own tokens, the newest last,
// in a file that only its user may read. A new key is made when the last one
// is old; nobody has to be told. Safe for concurrent use.
type signingKeys struct {
	file string
	now  func() time.Time

	mu   sync.Mutex
	keys []signingKey
}

// signingKey is as in the file.
type signingKey struct {
	ID      string    `json:"id"`
	Created time.Time `json:"created"`
	Seed    []byte    `json:"seed"` // RFC 8032's private key
}

func (k *signingKey) private() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(k.Seed) }

// openSigningKeys reads the file, or makes it.
func openSigningKeys(file string, now func() time.Time) (*signingKeys, error) {
	s := &signingKeys{file: file, now: now}
	content, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	default:
		if err := json.Unmarshal(content, &s.keys); err != nil {
			return nil, fmt.Errorf("%s is damaged: remove it, and clients get new tokens", file)
		}
		for _, k := range s.keys {
			if len(k.Seed) != ed25519.SeedSize || k.ID == "" {
				return nil, fmt.Errorf("%s is damaged: remove it, and clients get new tokens", file)
			}
		}
	}
	_, err = s.current()
	return s, err
}

// current is the key that signs now.
func (s *signingKeys) current() (signingKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if n := len(s.keys); n > 0 && now.Sub(s.keys[n-1].Created) < keyAge {
		return s.keys[n-1], nil
	}
	k := signingKey{Created: now, Seed: make([]byte, ed25519.SeedSize)}
	_, _ = rand.Read(k.Seed) // never fails
	public := k.private().Public().(ed25519.PublicKey)
	k.ID = base64.RawURLEncoding.EncodeToString(public[:9])
	keys := []signingKey{k}
	for i := len(s.keys) - 1; i >= 0 && now.Sub(s.keys[i].Created) < 2*keyAge; i-- {
		keys = append([]signingKey{s.keys[i]}, keys...)
	}
	content, err := json.MarshalIndent(keys, "", "  ")
	if err != nil {
		return signingKey{}, err
	}
	if err := renameio.WriteFile(s.file, append(content, '\n'), 0o600); err != nil {
		if n := len(s.keys); n > 0 { // a full disk must not end all pulls
			return s.keys[n-1], nil
		}
		return signingKey{}, fmt.Errorf("keep the key of tokens: %w", err)
	}
	s.keys = keys
	return k, nil
}

// expiry is when tokens that the newest key signs are believed no more. It is
// far ahead, unless no new key can be kept.
func (s *signingKeys) expiry() time.Time {
	k, err := s.current()
	if err != nil {
		return time.Time{}
	}
	return k.Created.Add(2 * keyAge)
}

// signer signs with the key of now, and names it.
func (s *signingKeys) signer() (jose.Signer, error) {
	k, err := s.current()
	if err != nil {
		return nil, err
	}
	return jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: k.private()},
		(&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", k.ID))
}

// public is the key of this name; nil where there is none.
func (s *signingKeys) public(id string) ed25519.PublicKey {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.keys {
		if k.ID == id && s.now().Sub(k.Created) < 2*keyAge {
			return k.private().Public().(ed25519.PublicKey)
		}
	}
	return nil
}
