// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// block is what transfers repeat. Its length has nothing in common with those of segments and buffers, so that a part
// that is lost, doubled or moved shows.
var block = func() []byte {
	b := make([]byte, 65521) // a prime
	for i := range b {
		b[i] = byte(i * (i + 7) >> 3)
	}
	return b
}()

// Stream reads as the bytes that pods send, and want, from an offset on, without an end.
type Stream struct{ At int64 }

// Read fills p.
func (s *Stream) Read(p []byte) (int, error) {
	for n := 0; n < len(p); {
		did := copy(p[n:], block[s.At%int64(len(block)):])
		n += did
		s.At += int64(did)
	}
	return len(p), nil
}

// Write fails at the first byte that isn't what the stream has there.
func (s *Stream) Write(p []byte) (int, error) {
	for n := 0; n < len(p); {
		part := block[s.At%int64(len(block)):]
		part = part[:min(len(part), len(p)-n)]
		if !bytes.Equal(part, p[n:n+len(part)]) {
			return n, fmt.Errorf("within %d bytes from offset %d there are others than were sent", len(part), s.At)
		}
		n += len(part)
		s.At += int64(len(part))
	}
	return len(p), nil
}

// bytesPath is followed by how many bytes a client wants; without a number it takes what the client sends.
const bytesPath = "/bytes/"

// sendBytes is the body for a client that wants some; negative is none.
func sendBytes(request *http.Request) (io.ReadCloser, int64) {
	number, ok := strings.CutPrefix(request.URL.Path, bytesPath)
	n, err := strconv.ParseInt(number, 10, 64)
	if !ok || err != nil || n < 0 {
		return nil, -1
	}
	return io.NopCloser(io.LimitReader(&Stream{}, n)), n
}

// takeBytes reads what a client sends and says how much of it was right.
func takeBytes(request *http.Request) (string, error) {
	var stream Stream
	_, err := io.Copy(&stream, request.Body)
	return fmt.Sprintf("%d bytes\n", stream.At), err
}
