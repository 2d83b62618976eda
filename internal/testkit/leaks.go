// SPDX-License-Identifier: Apache-2.0

package testkit

import (
	"testing"

	"go.uber.org/goleak"
)

// VerifyLeaks is a package's TestMain: it runs the tests and fails if they leave goroutines behind. One of nats-server's is
// passed over: where a stream is deleted or restored while something is written to it, the server may forget the flush
// loop of a file that it has closed, which then waits until the process ends.
func VerifyLeaks(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*msgBlock).flushLoop"))
}
