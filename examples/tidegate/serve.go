// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net/http"
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
	Lab          bool           `help:"Carry packets: each instance is a set of network namespaces on this machine, with an internet around the VPCs (Linux, root). See lab exec."`
	Internet     netip.Addr     `default:"192.0.2.1" placeholder:"ADDRESS" help:"The address of the lab's internet (${default})."`
}

func (s *serveCmd) run(ctx context.Context, c *cli, errOut io.Writer) (failed error) {
	if c.DryRun {
		return usageError{errors.New("--dry-run is for calls, not for serve")}
	}
	log := slog.New(slog.NewTextHandler(errOut, nil))
	options := region.Options{Engines: region.NewEngineSet(nat.Config{Sessions: s.Sessions, FlowCounters: true}, nil)}
	handler := http.NewServeMux()
	if s.Lab {
		lab, find, err := newLab(s.Internet, s.Sessions)
		if err != nil {
			return err
		}
		defer func() { failed = errors.Join(failed, lab.Close()) }()
		options.Engines, options.Observe = lab, lab.Observe
		handler.Handle("/lab/", calls.LabHandler(find))
	}
	store, err := region.OpenStore(s.State)
	if err != nil {
		return usageError{err}
	}
	defer func() { failed = errors.Join(failed, store.Close()) }()
	var seed [8]byte
	_, _ = rand.Read(seed[:]) // never fails (crypto/rand)
	options.Config = vpc.Config{
		Seed: binary.LittleEndian.Uint64(seed[:]), PublicPool: s.Pool, AddressQuota: s.AddressQuota, CoolDown: s.CoolDown,
		InsideMTU: insideMTU, OutsideMTU: outsideMTU,
	}
	options.Journal = store
	r, err := region.Open(options)
	if errors.Is(err, region.ErrNotSaved) || errors.Is(err, region.ErrNotInForce) {
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
	log.Info("holding a region", "state", s.State, "socket", c.Socket, "vpcs", objects, "lab", s.Lab)
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	wg.Go(func() { keepTime(ctx, r, log) })
	handler.Handle("/", calls.Handler(r, log))
	return calls.Serve(ctx, socket, handler, log)
}

// The MTUs are those of AWS.
const insideMTU, outsideMTU = 9001, 1500

// keepTime ends drains when they are over, to the second, and measures.
func keepTime(ctx context.Context, r *region.Region, log *slog.Logger) {
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
		r.Measure()
	}
}
