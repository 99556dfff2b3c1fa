// SPDX-License-Identifier: Apache-2.0

// Package region owns a region: the model of its VPCs, the file that the model's state lasts in, and an engine for each
// VPC. It makes each change one transaction:
//
//	the call, on a clone of the model        refused: an error of vpc, and nothing has happened
//	the policies of all VPCs it changes
//	what they would do, asked of the engines refused: the same
//	the journal, on the disk                 a dry run ends before it; failed: the clone is dropped, and the error says so
//	the engines                              an address that changes VPCs is withdrawn everywhere, then published
//	the answer
//
// A public address that nobody has is known to the policies of all VPCs, so a call about one VPC can change those of
// others.
package region
