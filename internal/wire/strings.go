// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// CleanStrings has every string of a message be one line of printable UTF-8, as Clean does: a node that is in other hands
// writes nothing else on people's terminals. Strings in maps stay as they are.
func CleanStrings(m proto.Message) { cleanStrings(m.ProtoReflect()) }

func cleanStrings(m protoreflect.Message) {
	m.Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case field.IsMap():
		case field.IsList():
			for i := range v.List().Len() {
				if cleaned, is := cleanValue(field, v.List().Get(i)); is {
					v.List().Set(i, cleaned)
				}
			}
		default:
			if cleaned, is := cleanValue(field, v); is {
				m.Set(field, cleaned)
			}
		}
		return true
	})
}

// cleanValue returns what a string should be, and cleans a message in place.
func cleanValue(field protoreflect.FieldDescriptor, v protoreflect.Value) (_ protoreflect.Value, isString bool) {
	switch field.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(Clean(v.String(), len(v.String()))), true
	case protoreflect.MessageKind:
		cleanStrings(v.Message())
	}
	return v, false
}
