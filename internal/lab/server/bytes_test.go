// SPDX-License-Identifier: Apache-2.0

package server

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// Both ends of a transfer know what is right at each offset, whatever parts it comes in.
func TestBytesAreSentAndCompared(t *testing.T) {
	t.Parallel()
	_, address := listening(t, "TCP")
	client := &http.Client{Timeout: 30 * time.Second}
	defer client.CloseIdleConnections()
	const size = 300_000
	response, err := client.Get("http://" + address + "/bytes/300000")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var got Stream
	if n, err := io.CopyBuffer(&got, response.Body, make([]byte, 1000)); n != size || err != nil {
		t.Errorf("got %d bytes, %v", n, err)
	}
	taken, err := client.Post("http://"+address+"/bytes/", "", io.LimitReader(&Stream{}, size))
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Body.Close()
	if body, err := io.ReadAll(taken.Body); string(body) != "300000 bytes\n" || err != nil {
		t.Errorf("got %q, %v", body, err)
	}
	wrong := io.MultiReader(io.LimitReader(&Stream{}, 70_000), strings.NewReader("lost"), io.LimitReader(&Stream{70_000}, size))
	if response, err := client.Post("http://"+address+"/bytes/", "", wrong); err == nil {
		defer response.Body.Close()
		t.Errorf("what isn't right is taken: %s", response.Status)
	}
}
