// SPDX-License-Identifier: Apache-2.0

package bus

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/deltaplane/deltaplane/internal/bus/embedded"
	"github.com/deltaplane/deltaplane/internal/trust"
	"github.com/deltaplane/deltaplane/schemas"
)

// guarded starts a server with accounts, and returns where it is and the folder of its keys.
func guarded(t *testing.T) (url string, keys *trust.Folder) {
	t.Helper()
	keys, err := trust.Init(filepath.Join(t.TempDir(), "trust"), []string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	return startServer(t, embedded.Options{Trust: keys.BusPath()}).URL(), keys
}

func TestARequestThatIsDeniedFailsAtOnce(t *testing.T) {
	url, keys := guarded(t)
	reader := keys.Path(trust.RoleReader)
	conn := connect(t, Options{
		URL: url, CredentialsFile: filepath.Join(reader, trust.FileCredentials), RootCAFile: filepath.Join(reader, trust.FileCA),
	})
	_, err := conn.Request(t.Context(), schemas.SubjectStatus, nil)
	if !errors.Is(err, ErrDenied) {
		t.Errorf("one answer: %v, want ErrDenied", err)
	}
	wantError(t, err, schemas.SubjectStatus, "these credentials have no permission for that")
	err = conn.RequestMany(t.Context(), schemas.SubjectStatus, nil, AnswerWithin, func([]byte) (bool, error) { return true, nil })
	if !errors.Is(err, ErrDenied) {
		t.Errorf("many answers: %v, want ErrDenied", err)
	}
	err = conn.Read(t.Context(), ReadOptions{Stream: schemas.StateFacts.Name}, func(Record) error { return nil })
	if !errors.Is(err, ErrDenied) {
		t.Errorf("a stream: %v, want ErrDenied", err)
	}
	if left := len(conn.requests.waiting); left != 0 {
		t.Errorf("%d requests are still waited for", left)
	}
}

func TestWhyABusCannotBeReachedSaysWhatToDo(t *testing.T) {
	url, keys := guarded(t)
	other, err := trust.Init(filepath.Join(t.TempDir(), "other"), []string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	creds := func(f *trust.Folder) string { return filepath.Join(f.Path(trust.RoleOperator), trust.FileCredentials) }
	ca := func(f *trust.Folder) string { return filepath.Join(f.Path(trust.RoleOperator), trust.FileCA) }
	whole, err := os.ReadFile(creds(keys))
	if err != nil {
		t.Fatal(err)
	}
	for situation, c := range map[string]struct {
		credentials, ca, want string
	}{
		"no credentials":                  {"", ca(keys), "give --bus-credentials"},
		"another folder's credentials":    {creds(other), ca(keys), "neither expired nor revoked?"},
		"another folder's certificate":    {creds(keys), ca(other), "of the same folder of deltaplane trust init as the server's certificate?"},
		"no certificate":                  {creds(keys), "", "give --bus-ca, ca.crt of the folder"},
		"credentials that aren't there":   {creds(keys) + "x", ca(keys), "is the file the right one, and whole?"},
		"half a file":                     {write(t, string(whole[:300])), ca(keys), "is the file the right one, and whole?"},
		"credentials that are none":       {write(t, "garbage"), ca(keys), "is the file the right one, and whole?"},
		"certificates that aren't there":  {creds(keys), ca(keys) + "x", "is the file the right one, and whole?"},
		"a file of certificates of noise": {creds(keys), write(t, "garbage"), "is the file the right one, and whole?"},
	} {
		t.Run(situation, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			_, err := Connect(ctx, Options{URL: url, Name: "test", CredentialsFile: c.credentials, RootCAFile: c.ca})
			wantError(t, err, "connect to the bus at "+url, c.want)
		})
	}
}

func TestARefusalIsToldOnceInAWhile(t *testing.T) {
	var r refusals
	now := time.Now()
	for step, c := range []struct {
		text  string
		after time.Duration
		want  bool
	}{{"a", 0, true}, {"a", time.Second, false}, {"b", time.Second, true}, {"a", refusalEvery, true}, {"a", refusalEvery + time.Second, false}} {
		if got := r.isNews(errors.New(c.text), now.Add(c.after)); got != c.want {
			t.Errorf("step %d: %q is news: %v, want %v", step, c.text, got, c.want)
		}
	}
	for i := range 10 * refusalsMost {
		r.isNews(fmt.Errorf("refusal %d", i), now)
	}
	if len(r) > refusalsMost {
		t.Errorf("%d refusals are remembered, want at most %d", len(r), refusalsMost)
	}
}
