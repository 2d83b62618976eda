// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const mostPods = 16

func (c *Churn) podComes(ctx context.Context) error {
	node := oneOf(c.Drawing, append(slices.Clone(programmed), paperNodes[0])...)
	pod, err := c.putPod(ctx, c.pod(fmt.Sprint("pod-", c.IntN(mostPods)), node))
	if err != nil || c.often(1) { // kubelet starts that one later
		return err
	}
	return c.address(ctx, pod, c.addresses())
}

// one draws a pod of those there are; nil if there are none.
func (c *Churn) one(ctx context.Context) (*corev1.Pod, error) {
	pods, err := c.Client.CoreV1().Pods(oneOf(c.Drawing, districts...)).List(ctx, metav1.ListOptions{})
	if err != nil || len(pods.Items) == 0 {
		return nil, err
	}
	return new(oneOf(c.Drawing, pods.Items...)), nil
}

func (c *Churn) podGoes(ctx context.Context) error {
	pod, err := c.one(ctx)
	if err != nil || pod == nil {
		return err
	}
	return c.Client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))})
}

// podMoves makes a pod again by the same name, as a StatefulSet does, mostly with the same address.
func (c *Churn) podMoves(ctx context.Context) error {
	pod, err := c.one(ctx)
	if err != nil || pod == nil {
		return err
	}
	err = c.Client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))})
	if err != nil {
		return err
	}
	again := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, Labels: pod.Labels}, Spec: pod.Spec}
	again.Spec.NodeName = oneOf(c.Drawing, programmed...)
	ips := pod.Status.PodIPs
	if c.often(3) {
		ips = c.addresses()
	}
	if again, err = c.putPod(ctx, again); err != nil {
		return err
	}
	return c.address(ctx, again, ips)
}

func (c *Churn) podChanges(ctx context.Context) error {
	pod, err := c.one(ctx)
	if err != nil || pod == nil {
		return err
	}
	pod.Labels = c.labels()
	_, err = c.Client.CoreV1().Pods(pod.Namespace).Update(ctx, pod, metav1.UpdateOptions{})
	return err
}

func (c *Churn) podFinishes(ctx context.Context) error {
	pod, err := c.one(ctx)
	if err != nil || pod == nil {
		return err
	}
	pod.Status.Phase = oneOf(c.Drawing, corev1.PodSucceeded, corev1.PodFailed)
	_, err = c.Client.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, pod, metav1.UpdateOptions{})
	return err
}

func (c *Churn) podStarts(ctx context.Context) error {
	pod, err := c.one(ctx)
	if err != nil || pod == nil || pod.Status.Phase != corev1.PodPending || pod.DeletionTimestamp != nil {
		return err
	}
	return c.address(ctx, pod, c.addresses())
}

// podEnds begins a pod's grace, during which it is one like others.
func (c *Churn) podEnds(ctx context.Context) error {
	pod, err := c.one(ctx)
	if err != nil || pod == nil {
		return err
	}
	return c.Client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{})
}
