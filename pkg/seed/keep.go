package seed

import (
	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/pkg/store"
)

// proxiedQuotas are the quotas of what is fetched from upstreams. Those of local
// repositories are not the store's: it keeps what was pushed.
func proxiedQuotas(c config.Seeder) ([]store.PrefixQuota, error) {
	all, err := c.PrefixQuotas()
	if err != nil {
		return nil, err
	}
	var list []store.PrefixQuota
	for _, q := range all {
		if !q.Local {
			list = append(list, store.PrefixQuota{Prefix: q.String(), Bytes: int64(q.Size)})
		}
	}
	return list, nil
}
