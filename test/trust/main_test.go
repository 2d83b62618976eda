// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"os"
	"sync"
	"testing"

	"github.com/deltaplane/deltaplane/internal/testkit"
)

// services is the folder with the services, once built has made it for the first test that needs it.
var services string

var built = sync.OnceValues(func() (folder string, err error) {
	services, err = testkit.Build()
	return services, err
})

func TestMain(m *testing.M) {
	code := m.Run()
	_ = os.RemoveAll(services) // if there is one
	os.Exit(code)
}
