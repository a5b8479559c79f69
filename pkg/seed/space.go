package seed

import (
	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/local"
)

// spaceOptions adds how long local content is kept, and how much of it. What is
// wrong with the settings was told by config.
func spaceOptions(o local.Options, c config.Seeder) (local.Options, error) {
	var err error
	if o.Retention, err = c.RetentionRules(); err != nil {
		return o, err
	}
	quotas, err := c.PrefixQuotas()
	if err != nil {
		return o, err
	}
	for _, q := range quotas {
		if q.Local {
			o.Quotas = append(o.Quotas, local.Quota{Prefix: q.Prefix, Size: int64(q.Size)})
		}
	}
	o.TrashPeriod, o.Lease, o.CollectEvery = c.TrashPeriod, c.CollectLease, c.CollectEvery
	return o, nil
}
