// SPDX-License-Identifier: Apache-2.0

package tun

const HeaderLen = headerLen

var (
	DecodeHeader = decode
	EncodeHeader = encode
)
