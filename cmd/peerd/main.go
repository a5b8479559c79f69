// Command peerd: see `peerd --help`.
package main

import (
	"context"
	"os"

	// Authorities for upstreams, where the system has none: images from scratch.
	_ "golang.org/x/crypto/x509roots/fallback"

	"github.com/samara-p2p/samara/internal/cli"
	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/pkg/mirror"
)

func main() {
	os.Exit(cli.Main(cli.Peerd(func(ctx context.Context, c config.Peerd) error {
		return mirror.Run(ctx, c, cli.Version())
	})))
}
