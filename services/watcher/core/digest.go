// SPDX-License-Identifier: Apache-2.0

package core

import (
	"crypto/sha256"

	"google.golang.org/protobuf/proto"

	"github.com/deltaplane/deltaplane/schemas"
)

// digest stands for what a fact says. Two facts that differ only in the object's version, in who changed it and when,
// have the same digest; an object that was deleted and made again has another.
type digest [16]byte

// Bytes are the same for the same fact only within one build of the program: after an upgrade a fact may be published
// once more than needed, which changes nothing.
var deterministic = proto.MarshalOptions{Deterministic: true}

func digestOf(fact *schemas.Fact) (digest, error) {
	ref := fact.GetObject()
	data, err := deterministic.Marshal(&schemas.Fact{
		Object: &schemas.ObjectRef{Kind: ref.GetKind(), Namespace: ref.GetNamespace(), Name: ref.GetName(), Uid: ref.GetUid()},
		State:  fact.State,
	})
	if err != nil {
		return digest{}, err
	}
	sum := sha256.Sum256(data)
	return digest(sum[:16]), nil
}
