// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// maxLine bounds one question, in bytes.
const maxLine = 1 << 20

// failure stands in for an answer to a question that can't be answered.
type failure struct {
	ID    json.RawMessage `json:"id,omitempty"`
	Line  int             `json:"line"`
	Error string          `json:"error"`
}

// Batch answers questions, one JSON object a line, each on one line of out and in the same order. What a question
// leaves open is taken from defaults. A question that can't be answered gets a line with "error", and the others go on;
// failed counts those. The error is for in and out themselves.
func (w *World) Batch(ctx context.Context, engine Engine, defaults Question, in io.Reader, out io.Writer) (asked, failed int, err error) {
	reader, writer := bufio.NewReaderSize(in, maxLine), bufio.NewWriterSize(out, 1<<16)
	encoder := json.NewEncoder(writer)
	encoder.SetEscapeHTML(false)
	for number := 1; ctx.Err() == nil; number++ {
		if reader.Buffered() == 0 { // whoever asks one by one gets each answer at once
			if err := writer.Flush(); err != nil {
				return asked, failed, fmt.Errorf("write answers: %w", err)
			}
		}
		line, readErr := readLine(reader)
		if errors.Is(readErr, io.EOF) {
			return asked, failed, writer.Flush()
		}
		if len(bytes.TrimSpace(line)) == 0 && readErr == nil {
			continue
		}
		asked++
		var result any
		if result = w.line(engine, defaults, line, readErr, number); isFailure(result) {
			failed++
		}
		if err := encoder.Encode(result); err != nil {
			return asked, failed, fmt.Errorf("write answers: %w", err)
		}
	}
	return asked, failed, errors.Join(ctx.Err(), writer.Flush())
}

func isFailure(result any) bool { _, is := result.(failure); return is }

func (w *World) line(engine Engine, defaults Question, line []byte, readErr error, number int) any {
	q, err := Question{}, readErr
	if err == nil {
		q, err = parseQuestion(line)
	}
	var answer *Answer
	if err == nil {
		answer, err = w.Ask(engine, q.withDefaults(defaults))
	}
	if err != nil {
		return failure{ID: q.ID, Line: number, Error: err.Error()}
	}
	return answer
}

// parseQuestion returns the id also of a question that is refused, as far as it can be made out.
func parseQuestion(line []byte) (Question, error) {
	var q Question
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(&q)
	if err == nil && decoder.More() {
		err = errors.New("more than one JSON value on the line")
	}
	if err == nil {
		return q, nil
	}
	var loose struct {
		ID json.RawMessage `json:"id"`
	}
	_ = json.Unmarshal(line, &loose)
	return Question{ID: loose.ID}, fmt.Errorf("not a question: %w; want fields id, node, from, to, proto, via", err)
}

var errLineTooLong = fmt.Errorf("the line is longer than %d bytes", maxLine)

// readLine returns one line without its end. A line that is too long is read to its end and refused.
func readLine(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	switch {
	case err == nil:
		return line[:len(line)-1], nil
	case errors.Is(err, io.EOF) && len(line) > 0:
		return line, nil
	case !errors.Is(err, bufio.ErrBufferFull):
		return nil, err
	}
	for errors.Is(err, bufio.ErrBufferFull) {
		_, err = r.ReadSlice('\n')
	}
	return nil, errLineTooLong
}
