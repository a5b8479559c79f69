package daemon

import (
	"context"
	"os"
	"time"

	"go.uber.org/zap"

	"github.com/samara-p2p/samara/internal/tracing"
)

// flushTimeout bounds how long the end waits for a collector.
const flushTimeout = 3 * time.Second

// openTraces begins to send traces, where the environment asks for them.
func (d *Daemon) openTraces(ctx context.Context) error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	tracer, stop, err := tracing.Start(ctx, d.p.Name, d.p.Version, host)
	if err != nil {
		return err
	}
	d.tracer = tracer
	d.atClose(func() {
		ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
		defer cancel()
		if err := stop(ctx); err != nil {
			d.Log.Warn("the last traces could not be sent", zap.Error(err))
		}
	})
	return nil
}
