// Command seeder: see `seeder --help`.
package main

import (
	"context"
	"os"

	// Authorities for upstreams, where the system has none: images from scratch.
	_ "golang.org/x/crypto/x509roots/fallback"

	"github.com/samara-p2p/samara/internal/cli"
	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/pkg/seed"
)

func main() {
	os.Exit(cli.Main(cli.Seeder(func(ctx context.Context, c config.Seeder) error {
		return seed.Run(ctx, c, cli.Version())
	})))
}
