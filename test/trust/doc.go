// SPDX-License-Identifier: Apache-2.0

// Package trust tests who can do what on the bus, against a server with the deployed configuration: each kind of user
// tries everything, and a compromised node does what no client library would. A compromised bus says what it likes, and
// does what it likes to what real services say: each has a relay before it that speaks the protocol.
package trust
