// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package gateway

import (
	"context"
	"io"

	"github.com/tidegate/tidegate/internal/config"
)

// Run returns ErrUnsupported.
func Run(context.Context, Options) error { return ErrUnsupported }

// Teardown returns ErrUnsupported.
func Teardown(io.Writer) error { return ErrUnsupported }

// Doctor returns ErrUnsupported.
func Doctor(*config.Config, string) ([]Finding, error) { return nil, ErrUnsupported }
