package p2p

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/pnet"
)

// LoadOrCreateKey reads the identity at path, or makes an ed25519 one and
// writes it there with mode 0600. The file holds libp2p's protobuf encoding of
// a private key. It refuses a file that others may read or its group may write.
func LoadOrCreateKey(path string) (crypto.PrivKey, error) {
	b, err := readSecret(path, 0o027)
	if errors.Is(err, fs.ErrNotExist) {
		key, _, err := crypto.GenerateEd25519Key(rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("p2p: new identity: %w", err)
		}
		b, err := crypto.MarshalPrivateKey(key)
		if err != nil {
			return nil, fmt.Errorf("p2p: new identity: %w", err)
		}
		if err := writeSecret(path, b); err != nil {
			return nil, fmt.Errorf("p2p: new identity: %w", err)
		}
		return key, nil
	}
	if err != nil {
		return nil, fmt.Errorf("p2p: identity: %w", err)
	}
	key, err := crypto.UnmarshalPrivateKey(b)
	if err != nil {
		return nil, fmt.Errorf("p2p: identity %s is damaged (restore it, or remove it to become a new peer): %w", path, err)
	}
	if key.Type() != crypto.Ed25519 {
		return nil, fmt.Errorf("p2p: identity %s is a %s key, not Ed25519: remove it to become a new peer", path, key.Type())
	}
	return key, nil
}

// LoadSwarmKey reads a private network key in libp2p's swarm.key V1 format:
// the lines /key/swarm/psk/1.0.0/, /base16/ and 64 hexadecimal digits. It
// refuses a file that others may write; who may read it is left to the one who
// hands it out, since a mounted Kubernetes secret is readable by its group.
func LoadSwarmKey(path string) (pnet.PSK, error) {
	b, err := readSecret(path, 0o022)
	if err != nil {
		return nil, fmt.Errorf("p2p: swarm key: %w", err)
	}
	psk, err := ParseSwarmKey(b)
	if err != nil {
		return nil, fmt.Errorf("p2p: swarm key %s: %w", path, err)
	}
	return psk, nil
}

// ParseSwarmKey reads a private network key in swarm.key format.
func ParseSwarmKey(b []byte) (pnet.PSK, error) {
	psk, err := pnet.DecodeV1PSK(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("not in swarm.key format (/key/swarm/psk/1.0.0/, /base16/, 64 hex digits): %w", err)
	}
	return psk, nil
}

// CreateSwarmKey writes a new private network key to path with mode 0600. It
// fails with fs.ErrExist where there is a file already.
func CreateSwarmKey(path string) (pnet.PSK, error) {
	psk := make(pnet.PSK, 32)
	rand.Read(psk)
	if err := SaveSwarmKey(path, psk); err != nil {
		return nil, err
	}
	return psk, nil
}

// SaveSwarmKey writes a private network key to path with mode 0600. It fails
// with fs.ErrExist where there is a file already.
func SaveSwarmKey(path string, psk pnet.PSK) error {
	b := []byte("/key/swarm/psk/1.0.0/\n/base16/\n" + hex.EncodeToString(psk) + "\n")
	if err := writeSecret(path, b); err != nil {
		return fmt.Errorf("p2p: new swarm key: %w", err)
	}
	return nil
}

// Fingerprint names a private network key without giving it away: 16
// hexadecimal digits, or "open" for none. Nodes of one swarm show the same.
func Fingerprint(psk pnet.PSK) string {
	if psk == nil {
		return "open"
	}
	h := sha256.Sum256(append([]byte("samara swarm key fingerprint\x00"), psk...))
	return hex.EncodeToString(h[:8])
}

// readSecret reads path, which must have none of the forbidden mode bits.
func readSecret(path string, forbidden fs.FileMode) ([]byte, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if m := st.Mode().Perm(); m&forbidden != 0 {
		return nil, fmt.Errorf("%s is open to others (mode %04o): chmod 600 it", path, m)
	}
	if st.Size() > 64<<10 {
		return nil, fmt.Errorf("%s has %d bytes: that is no key", path, st.Size())
	}
	return os.ReadFile(path)
}

// writeSecret creates path with b, whole or not at all.
func writeSecret(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	return os.Link(f.Name(), path) // unlike Rename it fails where path exists
}
