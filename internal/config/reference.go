package config

import (
	"fmt"
	"io"
	"strings"
	"time"
)

const referenceHead = `<!-- Generated from internal/config by "go generate ./internal/config"; do not edit. -->
# Configuration

Every setting is a flag, an environment variable and a key of the YAML file that
` + "`--config FILE`" + ` (or ` + "`SEEDER_CONFIG`, `PEERD_CONFIG`" + `) names. A flag beats the environment, which
beats the file, which beats the default. A list given at one level replaces the
list of the level below.

- **Flags** of a list are repeated: ` + "`--bootstrap A --bootstrap B`" + `.
- **Environment**: lists are separated by commas. An empty variable counts as not given.
- **YAML**: keys are the flags' names. Lists are YAML lists; ` + "`upstream`" + ` may also be a mapping of name to URL.
  An unknown key is an error that names the nearest known one.
- **Durations** are written like ` + "`90s`, `5m`, `24h`" + `; **sizes** like ` + "`512MiB`, `10GiB`, `1.5TB`" + `.

` + "`seeder config print`" + ` and ` + "`peerd config print`" + ` show the effective configuration and where each value
came from; ` + "`config check`" + ` says what is wrong with it. Both take the flags of ` + "`serve`" + `.

Exit status: 0 fine, 1 failed while running, 2 wrong usage or configuration.
`

const referenceExample = "```yaml" + `
# peerd.yaml
seeder: [http://10.0.0.1:5000]
swarm-key: /etc/samara/swarm.key
zone: rack-7
quota: 50GiB
upstream:
  docker.io: https://registry-1.docker.io
  registry.lab.test: https://registry.lab.test:5443
  ghcr.io:
    url: https://ghcr.io
    tag-ttl: 5m
    allow: [acme/**, actions/*]
` + "```\n"

// WriteReference writes docs/configuration.md.
func WriteReference(w io.Writer) error {
	var b strings.Builder
	b.WriteString(referenceHead)
	seeder, peerd := DefaultSeeder(), DefaultPeerd()
	writeDaemon(&b, "seeder", fieldsOf(&seeder))
	writeDaemon(&b, "peerd", fieldsOf(&peerd))
	b.WriteString("\n## Default upstreams\n\nA seeder that is given no `--upstream` has these; a peerd that is given none learns its seeder's, and uses these\nuntil a seeder has answered once.\n\n| name | URL |\n|---|---|\n")
	for _, u := range DefaultUpstreams() {
		fmt.Fprintf(&b, "| `%s` | %s |\n", u.Name, u.URL)
	}
	b.WriteString("\n## Options of an upstream\n\nThey follow its URL, apart by spaces: `--upstream 'ghcr.io=https://ghcr.io tag-ttl=5m deny=*/private-*'`. In YAML an upstream may\nbe a mapping with `url` and these keys. What they do: [upstreams.md](upstreams.md).\n\n| option | meaning |\n|---|---|\n")
	for _, o := range upstreamOptions {
		fmt.Fprintf(&b, "| `%s` | %s |\n", o.key, o.help)
	}
	b.WriteString("\n## Example\n\n" + referenceExample)
	_, err := io.WriteString(w, b.String())
	return err
}

func writeDaemon(b *strings.Builder, daemon string, fields []field) {
	fmt.Fprintf(b, "\n## %s\n", daemon)
	for _, group := range groups(fields) {
		fmt.Fprintf(b, "\n### %s: %s\n\n| flag and key | type | default | meaning |\n|---|---|---|---|\n", daemon, strings.ToLower(group))
		for _, f := range fields {
			if f.group == group {
				fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", f.name, f.kind(), f.defaultText(), strings.ReplaceAll(f.help, "|", `\|`))
			}
		}
	}
	fmt.Fprintf(b, "\nEnvironment variables are `%s_` and the name in upper case with `_` for `-`: `%s_P2P_LISTEN`.\n", strings.ToUpper(daemon), strings.ToUpper(daemon))
}

// groups in the order of the struct.
func groups(fields []field) []string {
	var list []string
	seen := map[string]bool{}
	for _, f := range fields {
		if !seen[f.group] {
			seen[f.group] = true
			list = append(list, f.group)
		}
	}
	return list
}

func (f field) defaultText() string {
	switch p := f.ptr.(type) {
	case *[]Upstream:
		if len(*p) > 0 {
			return "see below"
		}
		return "the seeder's"
	case *time.Duration, *bool, *int, *ByteSize:
		return "`" + f.values()[0] + "`"
	}
	v := strings.Join(f.values(), ", ")
	if v == "" {
		return ""
	}
	return "`" + v + "`"
}
