// SPDX-License-Identifier: Apache-2.0

// Package config is the one configuration file of the gateway and of replay: strict YAML in, a nat policy out.
//
// Load and Plain report all faults of their input at once, each with the place it stands at, what is wrong with it and
// what would be right. A Config that they return has no fault, holds every default, and can be printed as a file that
// loads to the same Config.
package config
