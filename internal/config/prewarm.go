package config

import "fmt"

// Prewarm is what a peerd does of what its seeder has it fetch ahead.
type Prewarm struct {
	PrewarmShare int `name:"prewarm-share" group:"Storage" help:"percent of --quota, or of the disk, that images may take which the seeder has this host fetch ahead; these go last when room is needed; 0 refuses them all (docs/prewarm.md)"`
}

func defaultPrewarm() Prewarm { return Prewarm{PrewarmShare: 50} }

func (p *Prewarm) problems() []Problem {
	if p.PrewarmShare < 0 || p.PrewarmShare > 90 {
		return []Problem{{Where: "--prewarm-share", What: fmt.Sprintf("%d is not within 0 to 90", p.PrewarmShare), Fix: "give a percentage; 0 is none"}}
	}
	return nil
}
