package config

import "slices"

// Private says whom a mirror gives what is not public at its upstream.
type Private struct {
	Private string `name:"private" group:"Upstreams" help:"whom content that is not public at its upstream is given to: by-client (who shows a token that the upstream takes), shared (whoever reaches the mirror) or never (clients fetch it from the upstream themselves)"`

	DockerTokens bool `name:"docker-tokens" group:"Upstreams" help:"ask dockerd for a token when it says hello, which is the only time that it listens: private images of the default upstream then come by the mirror, and each of its pulls asks that upstream's token server"`
}

// Whom private content is given to.
const (
	PrivateByClient = "by-client" // who shows a token that the upstream takes
	PrivateShared   = "shared"    // whoever reaches the mirror
	PrivateNever    = "never"     // nobody: clients go to the upstream
)

var privateWays = []string{PrivateByClient, PrivateShared, PrivateNever}

const privateFix = "give by-client, shared or never"

func defaultPrivate() Private { return Private{Private: PrivateByClient} }

func (p *Private) problems() []Problem {
	if !slices.Contains(privateWays, p.Private) {
		return []Problem{{Where: "--private", What: p.Private + " is none of its values", Fix: privateFix}}
	}
	return nil
}

// privateWarnings are of a seeder that gives away what its mirrors keep.
func (c *Seeder) privateWarnings() []Problem {
	host, _, err := splitHostPort(c.Listen)
	if c.Ruled() || err == nil && loopback(host) {
		return nil
	}
	for _, u := range c.Upstreams {
		if u.CredentialsFile != "" || u.CredentialHelper != "" {
			return []Problem{{Where: "--allow", What: "there are no rules: whoever reaches " + c.Listen + " pulls what the credentials for " + u.Name + " open",
				Fix: "give rules, like --allow 'anyone pull docker.io/library/**'; peerds with the swarm key may pull everything by themselves"}}
		}
	}
	return nil
}
