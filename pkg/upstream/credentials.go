package upstream

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

// maxCredentials bounds what is read of a file with credentials, in bytes.
const maxCredentials = 1 << 20

// credentials finds what is known for the upstream's host: the helper or file
// that is set for it, else what docker would send. The key is the host of the
// URL and not the upstream's name: a mirror that stands in for docker.io must
// not be sent docker.io's password.
func (u *upstream) credentials(ctx context.Context, repo string) (authn.AuthConfig, error) {
	server := credentialsServer(u.host)
	switch {
	case u.helper != "":
		return u.helpers.get(ctx, helperPrefix+u.helper, server)
	case u.file != "":
		return readCredentials(u.file)
	case u.o.Keychain != nil:
		return resolve(ctx, u.o.Keychain, u.host, repo)
	}
	if program := configuredHelper(credentialsHost(u.host)); program != "" {
		return u.helpers.get(ctx, program, server)
	}
	return resolve(ctx, authn.DefaultKeychain, u.host, repo)
}

func resolve(ctx context.Context, k authn.Keychain, host, repo string) (authn.AuthConfig, error) {
	a, err := authn.Resolve(ctx, k, resource{credentialsHost(host), repo})
	if err != nil {
		return authn.AuthConfig{}, err
	}
	c, err := authn.Authorization(ctx, a)
	if err != nil || c == nil {
		return authn.AuthConfig{}, err
	}
	return *c, nil
}

// credentialsHost is the name under which docker keeps a host's credentials.
func credentialsHost(host string) string {
	if host == hubHost {
		return name.DefaultRegistry
	}
	return host
}

// credentialsServer is the name under which helpers keep them.
func credentialsServer(host string) string {
	if host == hubHost {
		return authn.DefaultAuthKey
	}
	return host
}

// resource is an authn.Resource.
type resource struct{ host, repo string }

func (r resource) String() string      { return r.host + "/" + r.repo }
func (r resource) RegistryStr() string { return r.host }

// readCredentials reads USER:PASSWORD. Its errors quote nothing of the file.
func readCredentials(path string) (authn.AuthConfig, error) {
	f, err := os.Open(path)
	if err != nil {
		return authn.AuthConfig{}, err
	}
	defer f.Close()
	line, err := bufio.NewReader(io.LimitReader(f, maxCredentials)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return authn.AuthConfig{}, fmt.Errorf("%s cannot be read", path)
	}
	user, password, ok := strings.Cut(strings.TrimRight(line, "\r\n"), ":")
	if !ok || user == "" || password == "" {
		return authn.AuthConfig{}, fmt.Errorf("the first line of %s is not USER:PASSWORD", path)
	}
	return authn.AuthConfig{Username: user, Password: password}, nil
}

const helperPrefix = "docker-credential-"

// configuredHelper is the helper that docker's configuration names for a host,
// "" for none. go-containerregistry would run it, too, but without a deadline
// and one at a time for all registries.
func configuredHelper(host string) string {
	var c struct {
		CredHelpers map[string]string `json:"credHelpers"`
		CredsStore  string            `json:"credsStore"`
	}
	if err := readJSON(configFile(), &c); err != nil {
		return "" // DefaultKeychain says what is wrong with it
	}
	keys := []string{host}
	if host == name.DefaultRegistry {
		keys = append(keys, authn.DefaultAuthKey, "docker.io")
	}
	for _, k := range keys {
		if h := c.CredHelpers[k]; h != "" {
			return helperPrefix + h
		}
	}
	if c.CredsStore != "" {
		return helperPrefix + c.CredsStore
	}
	return ""
}

// configFile is the file that authn.DefaultKeychain reads, or "".
func configFile() string {
	home, _ := os.UserHomeDir()
	docker := os.Getenv("DOCKER_CONFIG")
	if docker == "" && home != "" {
		docker = filepath.Join(home, ".docker")
	}
	conf := os.Getenv("XDG_CONFIG_HOME")
	if conf == "" && home != "" {
		conf = filepath.Join(home, ".config")
	}
	for _, at := range []struct{ dir, file string }{
		{docker, "config.json"},
		{os.Getenv("REGISTRY_AUTH_FILE"), ""},
		{os.Getenv("XDG_RUNTIME_DIR"), "containers/auth.json"},
		{conf, "containers/auth.json"},
	} {
		path := filepath.Join(at.dir, at.file)
		if st, err := os.Stat(path); err == nil && at.dir != "" && !st.IsDir() {
			return path
		}
	}
	return ""
}

func readJSON(path string, v any) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxCredentials))
	if err != nil {
		return err
	}
	return json.Unmarshal(content, v)
}
