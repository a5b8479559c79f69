package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

// calibrateSkip leaves out TCP's start and tbf's first burst.
const calibrateSkip = time.Second

// calibrate returns how much payload a link of the scenario's rate carries for one
// host alone, over plain HTTP from the upstream, as a share of the rate. It shows
// whether lab.PayloadShare is right on this machine.
func (b *bench) calibrate(ctx context.Context, s scenario) (float64, error) {
	const patience = 2 * time.Minute
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	s = scenario{name: s.name, hosts: 1, rate: s.rate, mtu: s.mtu}
	// Enough for the whole time, and half as much again.
	s.layers = []int64{int64(float64(s.rate) / 8 * b.calibrateFor.Seconds() * 1.5)}
	w, err := b.newWorld(ctx, s)
	defer w.close(s.name + "-calibrate")
	if err != nil {
		return 0, fmt.Errorf("calibrate: %w", err)
	}
	layer := w.image.Blobs()[1].Digest.String()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.upstream.URL+"/v2/"+repo+"/blobs/"+layer, nil)
	if err != nil {
		return 0, fmt.Errorf("calibrate: %w", err)
	}
	client := w.hosts[0].HTTPClient()
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		return 0, fmt.Errorf("calibrate: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("calibrate: GET %s: %s", req.URL, resp.Status)
	}
	rate, err := goodput(resp.Body, b.calibrateFor)
	return rate / float64(s.rate), err
}

// goodput reads from r for at most this long and returns the bits per second that
// come after calibrateSkip.
func goodput(r io.Reader, within time.Duration) (float64, error) {
	buf := make([]byte, 64<<10)
	start := time.Now()
	var from time.Time
	var bytes int64
	for {
		n, err := r.Read(buf)
		now := time.Now()
		switch {
		case !from.IsZero():
			bytes += int64(n)
		case now.Sub(start) >= calibrateSkip:
			from = now
		}
		if err == io.EOF || now.Sub(start) >= within {
			if from.IsZero() || !now.After(from) {
				return 0, fmt.Errorf("calibrate: the transfer ended within %s", calibrateSkip)
			}
			return 8 * float64(bytes) / now.Sub(from).Seconds(), nil
		}
		if err != nil {
			return 0, fmt.Errorf("calibrate: %w", err)
		}
	}
}
