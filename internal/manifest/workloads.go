// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// LabelTemplate is the label that says which pod template a pod was made of, as Kubernetes' controllers set it.
const LabelTemplate = "pod-template-hash"

// perNode as a number of replicas asks for one pod on each node.
const perNode = math.MinInt

// workload takes a Deployment, ReplicaSet, StatefulSet or DaemonSet apart.
func workload(object Object) (template *corev1.PodTemplateSpec, selector *metav1.LabelSelector, replicas int, ok bool) {
	switch x := object.(type) {
	case *appsv1.Deployment:
		return &x.Spec.Template, x.Spec.Selector, count(x.Spec.Replicas), true
	case *appsv1.ReplicaSet:
		return &x.Spec.Template, x.Spec.Selector, count(x.Spec.Replicas), true
	case *appsv1.StatefulSet:
		return &x.Spec.Template, x.Spec.Selector, count(x.Spec.Replicas), true
	case *appsv1.DaemonSet:
		return &x.Spec.Template, x.Spec.Selector, perNode, true
	}
	return nil, nil, 0, false
}

func count(replicas *int32) int {
	if replicas == nil {
		return 1
	}
	return int(*replicas)
}

// podsOf makes the pods of one workload, without node or addresses but for those of a DaemonSet. A pod's name changes
// with the template, except in a StatefulSet, so that old and new ones can run side by side.
func podsOf(object Object, nodes []*corev1.Node) []*corev1.Pod {
	template, _, replicas, ok := workload(object)
	if !ok {
		return nil
	}
	hash := templateHash(template)
	var pods []*corev1.Pod
	if replicas == perNode {
		for _, node := range nodes {
			if fits(&template.Spec, node) {
				pod := podOf(object, template, hash, object.GetName()+"-"+hash+"-"+node.Name)
				pod.Spec.NodeName = node.Name
				pods = append(pods, pod)
			}
		}
		return pods
	}
	_, ordinal := object.(*appsv1.StatefulSet)
	for i := range replicas {
		name := fmt.Sprintf("%s-%s-%d", object.GetName(), hash, i)
		if ordinal {
			name = fmt.Sprintf("%s-%d", object.GetName(), i)
		}
		pod := podOf(object, template, hash, name)
		if ordinal { // policies may select one pod by these
			pod.Labels[appsv1.StatefulSetPodNameLabel], pod.Labels[appsv1.PodIndexLabel] = name, strconv.Itoa(i)
		}
		pods = append(pods, pod)
	}
	return pods
}

func podOf(owner Object, template *corev1.PodTemplateSpec, hash, name string) *corev1.Pod {
	pod := &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: *template.ObjectMeta.DeepCopy(),
		Spec:       *template.Spec.DeepCopy(),
	}
	pod.Name, pod.Namespace = name, owner.GetNamespace()
	pod.Labels = labels.Merge(pod.Labels, labels.Set{LabelTemplate: hash})
	controller := true
	kind := owner.GetObjectKind().GroupVersionKind()
	pod.OwnerReferences = []metav1.OwnerReference{{
		APIVersion: kind.GroupVersion().String(), Kind: kind.Kind, Name: owner.GetName(),
		UID: uidOf(owner), Controller: &controller,
	}}
	return pod
}

// OwnerOf names the workload that a pod was made for, as "Kind namespace/name"; empty if it stands for itself.
func OwnerOf(pod *corev1.Pod) string {
	if owner := metav1.GetControllerOf(pod); owner != nil {
		return owner.Kind + " " + pod.Namespace + "/" + owner.Name
	}
	return ""
}

// templateHash is short and stable; any change of the template, an annotation too, changes it.
func templateHash(template *corev1.PodTemplateSpec) string {
	data, err := json.Marshal(template)
	if err != nil {
		panic(fmt.Sprintf("manifest: a pod template that was decoded doesn't encode: %v", err))
	}
	sum := sha256.Sum256(data)
	return strings.ToLower(base32.HexEncoding.EncodeToString(sum[:5]))[:6]
}

func labelSet(l map[string]string) labels.Set { return labels.Set(l) }
