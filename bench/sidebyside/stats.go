// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"slices"
)

// median is the middle of xs, or the mean of the two in the middle; 0 of nothing.
func median(xs []float64) float64 {
	s := slices.Sorted(slices.Values(xs))
	switch n := len(s); {
	case n == 0:
		return 0
	case n%2 == 1:
		return s[n/2]
	default:
		return (s[n/2-1] + s[n/2]) / 2
	}
}

// percentile is the smallest of the sorted values that at least p of 100 do not exceed (nearest rank); 0 of nothing.
func percentile[T cmp.Ordered](sorted []T, p float64) (v T) {
	if len(sorted) == 0 {
		return v
	}
	rank := int(p / 100 * float64(len(sorted)))
	if float64(rank) < p/100*float64(len(sorted)) {
		rank++
	}
	return sorted[min(max(rank, 1), len(sorted))-1]
}
