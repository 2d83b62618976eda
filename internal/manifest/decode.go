// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"sigs.k8s.io/yaml"
)

// MaxDocumentBytes is what the API server takes in one request: larger documents are set aside unread.
const MaxDocumentBytes = 3 << 20

// kinds are the kinds that are understood, each with its API group and version.
var kinds = map[string]string{
	"Namespace": "v1", "Node": "v1", "Pod": "v1", "Service": "v1", "EndpointSlice": "discovery.k8s.io/v1",
	"Deployment": "apps/v1", "ReplicaSet": "apps/v1", "StatefulSet": "apps/v1", "DaemonSet": "apps/v1",
	"NetworkPolicy": "networking.k8s.io/v1", "ServiceCIDR": "networking.k8s.io/v1",
	kindClusterNetworkPolicy: "policy.networking.k8s.io/v1alpha2",
}

// clusterKinds have no namespace.
var clusterKinds = []string{"Namespace", "Node", "ServiceCIDR", kindClusterNetworkPolicy}

// kindClusterNetworkPolicy is of network-policy-api, has no Go type here, and keeps the fields that it is given:
// whoever reads it says which it knows.
const kindClusterNetworkPolicy = "ClusterNetworkPolicy"

// Scheme knows the Go types of all kinds that are understood.
var Scheme = newScheme()

var strict = serializer.NewCodecFactory(Scheme, serializer.EnableStrict).UniversalDeserializer()

func newScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, appsv1.AddToScheme, discoveryv1.AddToScheme, networkingv1.AddToScheme,
	} {
		if err := add(s); err != nil {
			panic(fmt.Sprintf("manifest: Kubernetes' own types don't register: %v", err))
		}
	}
	return s
}

// Loader collects the objects of several files and sets aside a second object of the same kind and name.
type Loader struct {
	// NamesOnly reads no further than what an object is called: enough to delete it, as kubectl does.
	NamesOnly bool

	objects Objects
	seen    map[string]string // kind and name → where it was first
}

// Objects returns all that was decoded.
func (l *Loader) Objects() *Objects { return &l.objects }

// Decode reads all documents of one file. The file's name is for messages only.
func (l *Loader) Decode(file string, data []byte) {
	for i, document := range split(data) {
		l.document(&DocumentError{File: file, Document: i + 1}, document)
	}
}

// Decode reads all documents of one file by itself.
func Decode(file string, data []byte) *Objects {
	var l Loader
	l.Decode(file, data)
	return l.Objects()
}

func (l *Loader) document(at *DocumentError, data []byte) {
	if len(data) > MaxDocumentBytes {
		l.setAside(at, fmt.Errorf("the document has %d bytes, and Kubernetes takes at most %d: make several objects of it", len(data), MaxDocumentBytes))
		return
	}
	if blank(data) {
		return
	}
	asJSON, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		l.setAside(at, fmt.Errorf("this is no YAML: %w", err))
		return
	}
	l.object(at, asJSON)
}

// head is what every document must have, and what a list has.
type head struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	} `json:"metadata"`
	Items []json.RawMessage `json:"items,omitempty"`
}

func (h *head) name() string {
	switch {
	case h.Metadata.Name == "" || slices.Contains(clusterKinds, h.Kind) || kinds[h.Kind] == "":
		return strings.TrimPrefix(h.Metadata.Namespace+"/"+h.Metadata.Name, "/")
	default:
		return cmp.Or(h.Metadata.Namespace, metav1.NamespaceDefault) + "/" + h.Metadata.Name
	}
}

// alone is the document without all that the head doesn't have.
func (h *head) alone() []byte {
	short := *h
	short.Items = nil
	data, err := json.Marshal(short)
	if err != nil {
		panic(fmt.Sprintf("manifest: four strings don't become JSON: %v", err))
	}
	return data
}

func (l *Loader) object(at *DocumentError, data []byte) {
	var h head
	if err := json.Unmarshal(data, &h); err != nil {
		l.setAside(at, fmt.Errorf("this is no Kubernetes object: %w", plainJSON(err)))
		return
	}
	at.Kind = h.Kind
	at.Name = h.name()
	if element, isList := strings.CutSuffix(h.Kind, "List"); isList && (element == "" || kinds[element] != "") {
		l.list(at, element, h)
		return
	}
	if l.NamesOnly {
		data = h.alone()
	}
	object, err := decodeOne(h, data)
	if err != nil {
		at.Rest = restOf(h, data)
	} else {
		err = l.add(at, object)
	}
	if err != nil {
		l.setAside(at, err)
	}
}

func (l *Loader) list(at *DocumentError, element string, h head) {
	for i, item := range h.Items {
		one := &DocumentError{File: fmt.Sprintf("%s: document %d: item %d", at.File, at.Document, i+1)}
		if element != "" {
			item = withType(item, kinds[element], element)
		}
		l.object(one, item)
	}
}

// withType adds what the items of a ServiceList and the like leave out.
func withType(item json.RawMessage, apiVersion, kind string) json.RawMessage {
	fields := map[string]any{}
	if json.Unmarshal(item, &fields) != nil {
		return item
	}
	fields["apiVersion"], fields["kind"] = apiVersion, kind
	typed, err := json.Marshal(fields)
	if err != nil {
		return item
	}
	return typed
}

func decodeOne(h head, data []byte) (Object, error) {
	version, known := kinds[h.Kind]
	switch {
	case h.Kind == "":
		return nil, errors.New("kind is missing: every document needs apiVersion and kind")
	case !known:
		return nil, fmt.Errorf("kind %q is not one that deltaplane reads: want %s", h.Kind, knownKinds())
	case h.APIVersion != version:
		return nil, fmt.Errorf("apiVersion %q: %s is read in version %s", h.APIVersion, h.Kind, version)
	}
	if h.Kind == kindClusterNetworkPolicy {
		object := &unstructured.Unstructured{}
		if err := object.UnmarshalJSON(data); err != nil {
			return nil, plainJSON(err)
		}
		return object, nil
	}
	decoded, _, err := strict.Decode(data, nil, nil)
	if err != nil {
		return nil, plainStrict(err)
	}
	object, ok := decoded.(Object)
	if !ok {
		return nil, fmt.Errorf("%T is no object with a name", decoded)
	}
	// The decoder clears it; whoever writes objects again needs it.
	object.GetObjectKind().SetGroupVersionKind(schema.FromAPIVersionAndKind(version, h.Kind))
	return object, nil
}

// restOf reads of a NetworkPolicy what can be read. What can't leaves terms out of its selector, never adds any.
func restOf(h head, data []byte) *networkingv1.NetworkPolicy {
	rest := &networkingv1.NetworkPolicy{}
	if h.Kind != "NetworkPolicy" || h.Metadata.Name == "" {
		return nil
	}
	_ = json.Unmarshal(data, rest) // goes on after a field that is wrong
	rest.Name, rest.Namespace = h.Metadata.Name, cmp.Or(h.Metadata.Namespace, metav1.NamespaceDefault)
	if validName(rest) != nil {
		return nil
	}
	return rest
}

func (l *Loader) add(at *DocumentError, object Object) error {
	kind := at.Kind
	if !slices.Contains(clusterKinds, kind) && object.GetNamespace() == "" {
		object.SetNamespace(metav1.NamespaceDefault)
	}
	at.Name = Name(object)
	check := Validate
	if l.NamesOnly {
		check = func(object Object) error { return validName(object) }
	}
	if err := check(object); err != nil {
		return err
	}
	key := kind + " " + Name(object)
	if first, twice := l.seen[key]; twice {
		return fmt.Errorf("%s is here twice: the first, in %s, counts", key, first)
	}
	if l.seen == nil {
		l.seen = map[string]string{}
	}
	l.seen[key] = at.File
	l.objects.Add(object)
	return nil
}

func (l *Loader) setAside(at *DocumentError, err error) {
	at.Err = err
	l.objects.SetAside = append(l.objects.SetAside, at)
}

// split cuts a file at lines that start with "---". Empty documents stay, so that numbers are those a person counts.
func split(data []byte) [][]byte {
	var documents [][]byte
	start := 0
	for at := 0; at < len(data); {
		end := len(data)
		if i := bytes.IndexByte(data[at:], '\n'); i >= 0 {
			end = at + i + 1
		}
		if line := data[at:end]; bytes.HasPrefix(line, []byte("---")) && len(bytes.TrimSpace(line[3:])) == 0 ||
			bytes.HasPrefix(line, []byte("--- ")) {
			documents = append(documents, data[start:at])
			start = end
		}
		at = end
	}
	documents = append(documents, data[start:])
	if blank(documents[0]) && len(documents) > 1 {
		return documents[1:] // what stands before the first "---" is no document of its own
	}
	return documents
}

// blank says that there is nothing but space and comments.
func blank(document []byte) bool {
	for line := range bytes.Lines(document) {
		if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '#' {
			return false
		}
	}
	return true
}

func knownKinds() string {
	names := make([]string, 0, len(kinds))
	for kind := range kinds {
		names = append(names, kind)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// plainStrict makes a decoder's error a sentence: it names each field and drops the Go types.
func plainStrict(err error) error {
	text := err.Error()
	if strictErr, ok := runtime.AsStrictDecodingError(err); ok {
		var each []string
		for _, e := range strictErr.Errors() {
			each = append(each, e.Error())
		}
		text = strings.Join(each, "; ")
	}
	return plainJSON(errors.New(text))
}

var wrongType = regexp.MustCompile(`json: cannot unmarshal (\S+) into Go (?:struct field (?:\w+\.)?(\S+?)|value) of type (\S+)`)

func plainJSON(err error) error {
	if found := wrongType.FindStringSubmatch(err.Error()); found != nil {
		return fmt.Errorf("%s: a %s stands where a %s belongs", cmp.Or(found[2], "the document"), found[1], found[3])
	}
	return err
}
