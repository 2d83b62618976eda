all is as at revision 7
 (