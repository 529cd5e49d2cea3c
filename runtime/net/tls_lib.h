/* SPDX-License-Identifier: Apache-2.0 */
/* What is used of OpenSSL 3, as pointers found when it is loaded. Only tls*.c include this. */
#ifndef FH_NET_TLS_LIB_H
#define FH_NET_TLS_LIB_H

#include <openssl/bio.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#define FH_TLS_SSL_FUNCTIONS(F)                                                                                        \
	F(TLS_server_method)                                                                                           \
	F(SSL_CTX_new)                                                                                                 \
	F(SSL_CTX_free)                                                                                                \
	F(SSL_CTX_ctrl)                                                                                                \
	F(SSL_CTX_set_options)                                                                                         \
	F(SSL_CTX_set_num_tickets)                                                                                     \
	F(SSL_CTX_use_certificate_chain_file)                                                                          \
	F(SSL_CTX_use_PrivateKey_file)                                                                                 \
	F(SSL_CTX_check_private_key)                                                                                   \
	F(SSL_CTX_load_verify_file)                                                                                    \
	F(SSL_load_client_CA_file)                                                                                     \
	F(SSL_CTX_set_client_CA_list)                                                                                  \
	F(SSL_CTX_set_verify)                                                                                          \
	F(SSL_CTX_set_default_passwd_cb)                                                                               \
	F(SSL_CTX_set_alpn_select_cb)                                                                                  \
	F(SSL_select_next_proto)                                                                                       \
	F(SSL_new)                                                                                                     \
	F(SSL_free)                                                                                                    \
	F(SSL_set_accept_state)                                                                                        \
	F(SSL_set0_rbio)                                                                                               \
	F(SSL_set0_wbio)                                                                                               \
	F(SSL_do_handshake)                                                                                            \
	F(SSL_read)                                                                                                    \
	F(SSL_write)                                                                                                   \
	F(SSL_shutdown)                                                                                                \
	F(SSL_get_error)                                                                                               \
	F(SSL_get1_peer_certificate)                                                                                   \
	F(SSL_get_verify_result)                                                                                       \
	F(SSL_CTX_set_keylog_callback)                                                                                 \
	F(SSL_set_ex_data)                                                                                             \
	F(SSL_get_ex_data)                                                                                             \
	F(SSL_set_msg_callback)                                                                                        \
	F(SSL_get_key_update_type)                                                                                     \
	F(SSL_key_update)                                                                                              \
	F(SSL_get_current_cipher)                                                                                      \
	F(SSL_CIPHER_get_protocol_id)                                                                                  \
	F(TLS_client_method)                                                                                           \
	F(SSL_CTX_set_default_verify_paths)                                                                            \
	F(SSL_CTX_set_alpn_protos)                                                                                     \
	F(SSL_set_connect_state)                                                                                       \
	F(SSL_set1_host)                                                                                               \
	F(SSL_ctrl)                                                                                                    \
	F(SSL_get0_param)

#define FH_TLS_CRYPTO_FUNCTIONS(F)                                                                                     \
	F(BIO_get_new_index)                                                                                           \
	F(BIO_meth_new)                                                                                                \
	F(BIO_meth_free)                                                                                               \
	F(BIO_meth_set_read)                                                                                           \
	F(BIO_meth_set_write)                                                                                          \
	F(BIO_meth_set_ctrl)                                                                                           \
	F(BIO_new)                                                                                                     \
	F(BIO_up_ref)                                                                                                  \
	F(BIO_set_data)                                                                                                \
	F(BIO_get_data)                                                                                                \
	F(BIO_set_init)                                                                                                \
	F(BIO_set_flags)                                                                                               \
	F(BIO_clear_flags)                                                                                             \
	F(ERR_get_error)                                                                                               \
	F(ERR_clear_error)                                                                                             \
	F(ERR_reason_error_string)                                                                                     \
	F(X509_get_subject_name)                                                                                       \
	F(X509_NAME_get_text_by_NID)                                                                                   \
	F(X509_digest)                                                                                                 \
	F(X509_free)                                                                                                   \
	F(EVP_sha256)                                                                                                  \
	F(EVP_KDF_fetch)                                                                                               \
	F(EVP_KDF_free)                                                                                                \
	F(EVP_KDF_CTX_new)                                                                                             \
	F(EVP_KDF_CTX_free)                                                                                            \
	F(EVP_KDF_derive)                                                                                              \
	F(OSSL_PARAM_construct_int)                                                                                    \
	F(OSSL_PARAM_construct_utf8_string)                                                                            \
	F(OSSL_PARAM_construct_octet_string)                                                                           \
	F(OSSL_PARAM_construct_end)                                                                                    \
	F(X509_VERIFY_PARAM_set1_ip_asc)                                                                               \
	F(X509_verify_cert_error_string)

#define FH_TLS_POINTER(name) __typeof__(name) *name;

struct fh_tls_lib {
	void *ssl_so, *crypto_so;
	FH_TLS_SSL_FUNCTIONS(FH_TLS_POINTER)
	FH_TLS_CRYPTO_FUNCTIONS(FH_TLS_POINTER)
	BIO_METHOD *method;
	EVP_KDF *tls13_kdf; /* NULL: this libcrypto has none, and nothing can be handed to the kernel */
};

#endif /* FH_NET_TLS_LIB_H */
