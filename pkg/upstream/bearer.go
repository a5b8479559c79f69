package upstream

import (
	"fmt"

	"github.com/google/go-containerregistry/pkg/authn"
)

// BearerKeychain is for a registry that believes tokens which its client makes
// itself, as a seeder believes its peers: what docker's config.json has for the
// host goes first, then a new token whenever one is needed.
func BearerKeychain(token func() (string, error)) authn.Keychain {
	return authn.NewMultiKeychain(authn.DefaultKeychain, bearerKeychain(token))
}

type bearerKeychain func() (string, error)

// Resolve implements authn.Keychain.
func (k bearerKeychain) Resolve(authn.Resource) (authn.Authenticator, error) {
	t, err := k()
	if err != nil {
		return nil, fmt.Errorf("make a token: %w", err)
	}
	return authn.FromConfig(authn.AuthConfig{RegistryToken: t}), nil
}
