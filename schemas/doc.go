// SPDX-License-Identifier: Apache-2.0

// Package schemas is what is said on the bus: the protobuf messages (deltaplane/v1/*.proto and the Go code
// generated from them), the subjects they travel on and the streams that keep them. It says who says what to
// whom, and in what order; it sends nothing itself.
//
// It is all that a subscriber from outside needs, together with a NATS client. Field numbers are never reused,
// subjects are built only by the functions here, and the golden messages in testdata decode for ever.
package schemas

//go:generate buf generate .. --template ../buf.gen.yaml --output ..
