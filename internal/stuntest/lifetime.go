// SPDX-License-Identifier: Apache-2.0

package stuntest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// Alive makes a mapping, leaves it alone for that long, and says whether it is still there: a second socket has the server
// send to it (RFC 5780, section 4.6). Both sockets need the same external address; it is an error if they have not.
func (c *Client) Alive(ctx context.Context, idle time.Duration) (bool, error) {
	alive, err := c.alive(ctx, idle)
	if err != nil {
		return false, fmt.Errorf("probe a mapping after %v: %w", idle, err)
	}
	return alive, nil
}

func (c *Client) alive(ctx context.Context, idle time.Duration) (bool, error) {
	first, err := c.Open()
	if err != nil {
		return false, err
	}
	defer first.Close()
	second, err := c.Open()
	if err != nil {
		return false, err
	}
	defer second.Close()
	mine, err := c.ask(ctx, first, c.Server)
	if err != nil {
		return false, err
	}
	if sleep := c.Sleep; sleep != nil {
		sleep(idle)
	} else {
		time.Sleep(idle)
	}
	theirs, err := c.ask(ctx, second, c.Server)
	if err != nil {
		return false, err
	}
	if mine.mapped.Addr() != theirs.mapped.Addr() {
		return false, fmt.Errorf("the sockets of one host have the external addresses %s and %s", mine.mapped.Addr(), theirs.mapped.Addr())
	}
	port := binary.BigEndian.AppendUint16(nil, mine.mapped.Port())
	_, err = c.exchange(ctx, second, first, c.Server, attribute(attrResponsePort, append(port, 0, 0)))
	if errors.Is(err, ErrNoAnswer) {
		return false, nil
	}
	return err == nil, err
}

// Lifetime is how long a mapping lives that nothing refreshes: the longest time after which one was alive, within
// precision of one after which none was. It is limit if one outlives that.
func (c *Client) Lifetime(ctx context.Context, limit, precision time.Duration) (time.Duration, error) {
	low, high := time.Duration(0), limit
	for idle := limit; ; idle = low + (high-low)/2 {
		alive, err := c.Alive(ctx, idle)
		switch {
		case err != nil:
			return 0, err
		case !alive:
			high = idle
		case idle == limit:
			return limit, nil
		default:
			low = idle
		}
		if high-low <= max(precision, 1) {
			return low, nil
		}
	}
}
