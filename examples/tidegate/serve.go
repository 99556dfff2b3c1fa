// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/tidegate/tidegate/internal/calls"
	"github.com/tidegate/tidegate/internal/control"
	"github.com/tidegate/tidegate/internal/region"
	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/vpc"
)

type serveCmd struct {
	State        string         `required:"" placeholder:"FILE" help:"The file that the region lasts in. It is made if there is none."`
	Pool         []netip.Prefix `placeholder:"PREFIX" help:"The public addresses. Those of a file can be added to, behind what it has; without this they stay as they are."`
	AddressQuota int            `placeholder:"N" help:"How many Elastic IPs may be allocated; 5 if this is not said."`
	CoolDown     time.Duration  `placeholder:"TIME" help:"How long a returned public address rests; 2m if this is not said."`
	Sessions     int            `default:"65536" help:"Sessions of the NAT gateways of each VPC (${default})."`
}

func (s *serveCmd) run(ctx context.Context, c *cli, errOut io.Writer) (err error) {
	if c.DryRun {
		return usageError{errors.New("--dry-run is for calls, not for serve")}
	}
	log := slog.New(slog.NewTextHandler(errOut, nil))
	store, err := region.OpenStore(s.State)
	if err != nil {
		return usageError{err}
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	var seed [8]byte
	_, _ = rand.Read(seed[:]) // never fails (crypto/rand)
	r, err := region.Open(region.Options{
		Config: vpc.Config{
			Seed: binary.LittleEndian.Uint64(seed[:]), PublicPool: s.Pool, AddressQuota: s.AddressQuota, CoolDown: s.CoolDown,
			InsideMTU: 9001, OutsideMTU: 1500,
		},
		Journal: store,
		Engines: region.NewEngineSet(nat.Config{Sessions: s.Sessions}, nil),
	})
	if errors.Is(err, region.ErrNotSaved) {
		return err
	}
	if err != nil {
		return usageError{err}
	}
	socket, err := control.Listen(c.Socket)
	if err != nil {
		return err
	}
	defer socket.Close()
	var objects int
	r.View(func(m *vpc.Model) { objects = len(m.DescribeVPCs()) })
	log.Info("holding a region", "state", s.State, "socket", c.Socket, "vpcs", objects)
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	wg.Go(func() { advance(ctx, r, log) })
	return calls.Serve(ctx, socket, r, log)
}

// advance ends drains when they are over, to the second.
func advance(ctx context.Context, r *region.Region, log *slog.Logger) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if _, err := r.Advance(); err != nil {
			log.Error("a drain that is over could not be ended", "error", err)
		}
	}
}
